"""What a map or a metric must be, tried on a few points before work is spent on it."""
