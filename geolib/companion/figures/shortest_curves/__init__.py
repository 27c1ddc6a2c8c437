"""Panels of notebooks 06 to 08."""
