"""Generative models as plain modules, and how each of them is trained."""
