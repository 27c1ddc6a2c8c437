"""What a reader touches: sliders and JupyterLab."""
