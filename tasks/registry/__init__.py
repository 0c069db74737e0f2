"""MLflow's registry and the published model."""
