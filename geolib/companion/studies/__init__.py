"""What the notebooks measure, one file per notebook: numbers, and verdicts on the papers' claims."""
