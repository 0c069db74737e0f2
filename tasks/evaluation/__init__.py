"""What is measured of a model, and the gate's verdict."""
