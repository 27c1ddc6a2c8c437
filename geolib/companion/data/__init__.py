"""Data sets: find, download, verify, read."""
