"""Panels of notebooks 13 to 15."""
