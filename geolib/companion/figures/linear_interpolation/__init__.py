"""Panels of notebooks 00 to 05."""
