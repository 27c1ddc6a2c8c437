"""Tools for latent spaces of two dimensions: grids, global distances, tabulated metrics."""
