"""Notebooks 00 to 05: straight lines and geodesics, after Michelis & Becker 2021."""
