"""Generative models: modules, recipes, training, weights, and the geometry they induce."""
