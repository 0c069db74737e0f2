"""The button on a task's page that leads to what MLflow holds of the run."""

from typing import Any

from airflow.sdk import BaseOperatorLink

from dags.operators.start import run_of
from tasks.contracts import STEPS, RegisteredVersion
from tasks.errors import ContractError, ServiceError, SettingsError
from tasks.registry.tracking import URL_FILE

WITHOUT_TRAINING = STEPS[: STEPS.index("train")]
"""The steps before MLflow has anything of the run."""


class MlflowLink(BaseOperatorLink):
    """The MLflow run that `train` opened; from `register` on the model version."""

    name = "MLflow"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the version, else of the run, else nothing: Airflow asks at the task's end, however it ended."""
        run = run_of(operator.recipe, ti_key.run_id)
        try:
            if run.has(RegisteredVersion):
                return run.read(RegisteredVersion).url
            return run.get(URL_FILE) or ""
        except (ContractError, ServiceError, SettingsError):
            return ""


def links_of(step: str) -> tuple[MlflowLink, ...]:
    """The buttons of a step's task."""
    return () if step in WITHOUT_TRAINING else (MlflowLink(),)
