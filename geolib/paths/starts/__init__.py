"""Initial curves: shortest paths over graphs of latents or over lattices in the plane, other ways beside them, bows."""
