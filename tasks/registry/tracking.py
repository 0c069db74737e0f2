"""MLflow as the steps use it: a client that is known to answer, and the one MLflow run of a loraflow run."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tasks.contracts import Scores, TrackedRun
from tasks.errors import ServiceError, SettingsError
from tasks.registry.metric_names import BOUNDS, metric_names
from tasks.secrets.redaction import in_one_line, without_credentials
from tasks.settings import header_value, settings
from tasks.workspace.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "loraflow.run"
"""Tag of an MLflow run, and of the model version it led to: the loraflow run's id."""

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment: MLflow's pages show runs and metrics first, not traces and prompts as by default."""

PARENT_TAG = "mlflow.parentRunId"
"""Tag by which MLflow's pages nest a run below another."""

REFUSED = re.compile(r"error code 40[13]\b|PERMISSION_DENIED|UNAUTHENTICATED")
"""How MLflow's client tells of a server that knows us not, or lets us do nothing."""

URL_FILE = "mlflow.url"
"""File in a run's folder with the address of its MLflow run, there as soon as the run is: also where `train` fails."""


def client() -> "MlflowClient":
    """A client of the tracking server and registry that the settings name, which has answered this process once.

    Raises:
        ServiceError: it does not answer.
        SettingsError: it refuses us, or its token cannot be sent.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the server's address with the password in it
    import mlflow

    header_value("MLFLOW_TRACKING_TOKEN")
    uri, database = settings().mlflow_tracking_uri, settings().mlflow_database
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        unquote(urlsplit(uri).netloc).encode("latin-1")
    except UnicodeEncodeError:
        raise SettingsError(
            "LORAFLOW_MLFLOW_URI",
            "its user name or password holds a character that MLflow's client cannot send",
            "characters of Latin-1",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        ) from None
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    _check_answer(uri)
    return mlflow.MlflowClient()


@cache
def _check_answer(uri: str) -> None:
    """Ask the current tracking server one question. Only success is cached, so that a retry asks again."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        detail = in_one_line(error)
        if REFUSED.search(detail):
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or give that account the right"
            raise SettingsError(f"MLflow at {uri}", f"refused us ({detail})", "an account that may use it", remedy) from None
        raise ServiceError(
            f"MLflow at {uri}",
            f"no answer ({detail})",
            "a tracking server",
            "start it, or mend LORAFLOW_MLFLOW_URI",
        ) from None


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """While MLflow is talked to: its faults as the house's.

    Raises:
        ServiceError: MLflow stopped answering, or did not do what it was asked.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        detail = in_one_line(error)
        where = f"{what}: MLflow at {settings().mlflow_tracking_uri}"
        raise ServiceError(
            where, f"refused or did not answer ({detail})", "an answer", "look at its log, then try again"
        ) from None  # its own text would repeat the address, password and all


@contextmanager
def tracked(run: Run, *below: str) -> Iterator[TrackedRun]:
    """The MLflow run of this loraflow run, found by its tag or created in the experiment named after the recipe.

    With names below it, it is the child of that name, or the child's child. It is RUNNING inside, FINISHED afterwards and
    FAILED where a step raised, as with `mlflow.start_run`; the next step takes it up again. One whose step was killed stays RUNNING
    until the retry.
    """
    tracker = client()
    with mlflow_errors("tracking"):
        found = _tracked_run(tracker, run, below)
        tracker.update_run(found.run_id, status="RUNNING")
    try:
        yield found
    except BaseException:
        with suppress(Exception):  # where MLflow is the fault, it cannot be told
            tracker.set_terminated(found.run_id, "FAILED")
        raise
    with mlflow_errors("tracking"):
        tracker.set_terminated(found.run_id, "FINISHED")


def _tracked_run(tracker: "MlflowClient", run: Run, below: Sequence[str] = ()) -> TrackedRun:
    experiment_id, identity = _experiment(tracker, run.recipe.name), "/".join((run.id, *below))
    found = tracker.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{identity}'", max_results=1)
    if found:
        run_id = found[0].info.run_id
    else:
        tags = {RUN_TAG: identity, "loraflow.recipe": run.recipe.name}
        if below:
            tags[PARENT_TAG] = _tracked_run(tracker, run, below[:-1]).run_id
        run_id = tracker.create_run(experiment_id, run_name=below[-1] if below else run.id.rpartition("/")[2], tags=tags).info.run_id
    tracked = TrackedRun(run_id, experiment_id, run_url(experiment_id, run_id))
    if not below:
        run.put(URL_FILE, tracked.url)
    return tracked


def metrics(found: TrackedRun, figures: Mapping[str, float], step: int = 0) -> None:
    """Log figures of a whole run, or of a step of its training.

    Raises:
        ServiceError: MLflow does not take them.
    """
    from mlflow.entities import Metric

    tracker, now = client(), int(time.time() * 1000)
    with mlflow_errors("tracking"):
        tracker.log_batch(found.run_id, metrics=[Metric(key, value, now, step) for key, value in figures.items()])


def artifact(found: TrackedRun, path: Path, folder: str) -> None:
    """Keep a file beside a run's figures, in a folder of its artifacts; one of its name there is replaced.

    Raises:
        ServiceError: MLflow does not take it.
    """
    tracker = client()
    with mlflow_errors("tracking"):
        tracker.log_artifact(found.run_id, str(path), folder)


def history(found: TrackedRun, metric: str) -> dict[int, float]:
    """A metric over the steps of a training; where an attempt repeated what a killed one had done, its value counts.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with mlflow_errors("tracking"):
        entries = client().get_metric_history(found.run_id, metric)
    return dict(sorted({entry.step: entry.value for entry in sorted(entries, key=lambda entry: entry.timestamp)}.items()))


def figures_of(model: str, scores: Scores) -> dict[str, float]:
    """A model's scores as metrics `<model>.<metric>` with `.low` and `.high`, in names that MLflow takes (`metric_names`)."""
    figures: dict[str, float] = {}
    for metric, name in metric_names(scores).items():
        values = (scores[metric].value, scores[metric].low, scores[metric].high)
        figures |= {f"{model}.{name}{ending}": value for ending, value in zip(("", *BOUNDS), values, strict=True)}
    return figures


def parameters(found: TrackedRun, values: Mapping[str, object]) -> None:
    """Log what a run was made with; what stands there already is the same, since a run's recipe does not change.

    Raises:
        ServiceError: MLflow does not take them.
    """
    from mlflow.entities import Param

    tracker = client()
    with mlflow_errors("tracking"):
        known = tracker.get_run(found.run_id).data.params
        tracker.log_batch(found.run_id, params=[Param(key, str(value)[:500]) for key, value in values.items() if key not in known])


def run_url(experiment_id: str, run_id: str) -> str:
    """Address of an MLflow run as users open it."""
    return f"{without_credentials(settings().mlflow_ui_url)}/#/experiments/{experiment_id}/runs/{run_id}"


def _experiment(tracker: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    if (found := tracker.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    database = settings().mlflow_database
    try:
        # A bare SQLite file has no server that would choose a place for artifacts: they lie beside it.
        location = (database.parent / "artifacts" / name).as_uri() if database else None
        return str(tracker.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
    except MlflowException:
        if (found := tracker.get_experiment_by_name(name)) is None:  # no other run created it at the same moment
            raise
        return str(found.experiment_id)
