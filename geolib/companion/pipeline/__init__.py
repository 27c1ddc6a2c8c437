"""From notebooks to figures and the table of numbers."""
