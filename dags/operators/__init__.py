"""A step as a task of Airflow."""
