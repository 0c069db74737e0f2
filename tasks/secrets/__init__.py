"""Secrets: which variables hold them, and texts without them."""
