"""The look of every figure, how it is saved, and what made it; one panel file per notebook."""
