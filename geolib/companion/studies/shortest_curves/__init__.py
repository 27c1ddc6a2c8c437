"""Notebooks 06 to 08: how geodesics are found, and whether they are the shortest."""
