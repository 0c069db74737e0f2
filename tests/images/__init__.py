"""Images built and run for real: `make test-images`. Beside `make test`, since it takes minutes and a container engine."""
