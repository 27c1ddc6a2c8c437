"""Panels of feature maps on top of a generator."""
