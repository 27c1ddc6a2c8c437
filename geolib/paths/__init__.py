"""The machinery behind ``geodesic()``: energy of discrete curves, systems, measuring, certificate, starts, results."""
