"""The steps of loraflow as plain Python: `python -m tasks <step> --run <folder>`."""

__version__ = "0.1.0"
