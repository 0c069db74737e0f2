"""Numbers and pictures."""
