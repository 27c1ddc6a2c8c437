"""Initial curves: shortest paths over graphs of latents or over lattices in the plane, and other ways beside them."""
