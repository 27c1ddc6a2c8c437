"""Notebook 11: kinds of generative models, and what their Jacobians are like."""
