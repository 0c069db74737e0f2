"""The button on a task's page that leads to what MLflow holds of the run."""

from typing import Any

from airflow.sdk import BaseOperatorLink

from dags.start import run_of
from tasks.contracts import RegisteredVersion
from tasks.errors import ContractError
from tasks.tracking import URL_FILE


class MlflowLink(BaseOperatorLink):
    """The MLflow run that `train` opened; from `register` on the model version."""

    name = "MLflow"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the version, else of the run, else nothing: Airflow asks at the task's end, however it ended."""
        run = run_of(operator.recipe, ti_key.run_id)
        try:
            if run.has(RegisteredVersion):
                return run.read(RegisteredVersion).url
            return (run.folder / URL_FILE).read_text(encoding="utf-8")
        except (ContractError, FileNotFoundError):
            return ""
