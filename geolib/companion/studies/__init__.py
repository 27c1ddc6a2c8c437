"""What the notebooks measure, one file a notebook: numbers, and verdicts on the papers' claims."""
