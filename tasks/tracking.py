"""MLflow as the steps use it: a client that is known to answer, and the one MLflow run of a loraflow run."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts import TrackedRun
from tasks.errors import ServiceError
from tasks.settings import settings
from tasks.workspace import Run, write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "loraflow.run"
"""Tag of an MLflow run, and of the model version it led to: the loraflow run's id."""

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment: MLflow's pages show runs and metrics first, not traces and prompts as by default."""

URL_FILE = "mlflow.url"
"""File in a run's folder with the address of its MLflow run, there as soon as the run is: also where `train` fails."""


def client() -> "MlflowClient":
    """A client of the tracking server and registry that the settings name, after it has answered once.

    Raises:
        ServiceError: it does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = settings().mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    found = mlflow.MlflowClient()
    try:
        found.search_experiments(max_results=1)
    except MlflowException as error:
        detail = _without_password(" ".join(str(error).split()))[:200]
        raise ServiceError(
            f"MLflow at {_without_password(uri)}",
            f"no answer ({detail})",
            "a tracking server expected",
            "start it, or mend LORAFLOW_MLFLOW_URI",
        ) from None
    return found


@contextmanager
def answering(what: str) -> Iterator[None]:
    """While MLflow is talked to: its faults as the house's.

    Raises:
        ServiceError: MLflow stopped answering, or did not do what it was asked.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        detail = " ".join(str(error).split())[:300]
        where = f"{what}: MLflow at {_without_password(settings().mlflow_tracking_uri)}"
        raise ServiceError(
            where, f"refused or did not answer ({detail})", "an answer expected", "look at its log, then try again"
        ) from error


@contextmanager
def tracked(run: Run) -> Iterator[TrackedRun]:
    """The MLflow run of this loraflow run, found by its tag or created in the experiment named after the recipe.

    It is RUNNING inside, FINISHED afterwards and FAILED where a step raised, as with `mlflow.start_run`; the next step takes it
    up again. One whose step was killed stays RUNNING until the retry.
    """
    tracker = client()
    found = _tracked_run(tracker, run)
    with answering("tracking"):
        tracker.update_run(found.run_id, status="RUNNING")
    try:
        yield found
    except BaseException:
        with suppress(Exception):  # where MLflow is the fault, it cannot be told
            tracker.set_terminated(found.run_id, "FAILED")
        raise
    with answering("tracking"):
        tracker.set_terminated(found.run_id, "FINISHED")


def _tracked_run(tracker: "MlflowClient", run: Run) -> TrackedRun:
    experiment_id = _experiment(tracker, run.recipe.name)
    found = tracker.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
    if found:
        run_id = found[0].info.run_id
    else:
        created = tracker.create_run(experiment_id, run_name=run.folder.name, tags={RUN_TAG: run.id, "loraflow.recipe": run.recipe.name})
        run_id = created.info.run_id
    tracked = TrackedRun(run_id, experiment_id, run_url(experiment_id, run_id))
    write_atomically(run.folder / URL_FILE, tracked.url)
    return tracked


def metrics(found: TrackedRun, figures: dict[str, float]) -> None:
    """Log figures of a whole run.

    Raises:
        ServiceError: MLflow does not take them.
    """
    with answering("tracking"):
        for key, value in figures.items():
            client().log_metric(found.run_id, key, value)


def run_url(experiment_id: str, run_id: str) -> str:
    """Address of an MLflow run as users open it."""
    return f"{settings().mlflow_ui_url}/#/experiments/{experiment_id}/runs/{run_id}"


def _experiment(tracker: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    if (found := tracker.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    uri = settings().mlflow_tracking_uri
    # A bare SQLite file has no server that would choose a place for artifacts: they lie beside it.
    beside = Path(uri.removeprefix("sqlite:///")).parent / "artifacts" / name
    try:
        location = beside.as_uri() if uri.startswith("sqlite:///") else None
        return str(tracker.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
    except MlflowException:
        if (found := tracker.get_experiment_by_name(name)) is None:  # no other run created it at the same moment
            raise
        return str(found.experiment_id)


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//…@", text)
