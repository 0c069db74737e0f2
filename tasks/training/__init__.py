"""One training, from rows to checkpoints."""
