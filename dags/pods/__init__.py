"""A step as a pod in a cluster."""
