"""What a reader touches: the explorer and JupyterLab."""
