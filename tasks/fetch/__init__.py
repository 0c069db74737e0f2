"""Data files and base models from outside."""
