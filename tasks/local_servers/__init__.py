"""Airflow and MLflow on one machine, for a laptop and for CI: start them, retrain through them, end them.

Airflow runs as processes of its own and is spoken to by HTTP; nothing here imports it.
"""
