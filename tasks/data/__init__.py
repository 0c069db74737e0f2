"""Rows: reading, checking, splitting and versioning."""
