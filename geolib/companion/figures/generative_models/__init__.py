"""Panels of notebook 11."""
