"""When and where the steps run: DAGs and operators. Nothing heavy is imported here."""

from tasks.secrets.variables import strip_secrets

strip_secrets()  # every process of Airflow's that works for loraflow passes here, and hands its environment on to local steps
