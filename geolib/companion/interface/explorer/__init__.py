"""A map of the latent plane that can be touched: one ES module, live in JupyterLab and on a page without a kernel."""
