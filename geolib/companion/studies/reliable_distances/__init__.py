"""What notebooks 13 to 15 measure."""
