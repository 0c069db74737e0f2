"""MLflow: whether it answers, which version it is, and whether tracking, registry and artifacts may be written to.

What is written is removed for good: a tag, a registered model without versions, a file. Experiments and runs are never made for
it, since MLflow only hides what is deleted of those.
"""

import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts import Finding
from tasks.doctor.findings import fault, good
from tasks.doctor.probe import NAME, passing
from tasks.doctor.scope import Scope
from tasks.doctor.storage import folder_finding
from tasks.registry import tracking
from tasks.secrets.redaction import in_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "loraflow.preflight"
RIGHTS = "see whether the account of MLFLOW_TRACKING_USERNAME may edit it"
DEFAULT_EXPERIMENT = "0"


def tracking_server(scope: Scope) -> Iterator[Finding]:
    """The server, or the database file of the embedded default, which is looked at without MLflow: that is quicker."""
    if database := scope.settings.mlflow_database:
        yield _database(database)
        return
    client, uri = tracking.client(), scope.settings.mlflow_tracking_uri
    yield good("MLflow", f"{uri} answers{_server_version(uri)}")
    recipe = scope.recipe.name if scope.recipe else ""
    for what, write in (("tracking", _write_tag), ("registry", _write_model), ("artifacts", _write_artifact)):
        yield _asked(f"MLflow {what}", write, client, recipe)


def _asked(what: str, write: Callable[["MlflowClient", str], str], client: "MlflowClient", recipe: str) -> Finding:
    from mlflow.exceptions import MlflowException, RestException

    try:
        return good(what, write(client, recipe))
    except Exception as error:  # an artifact store's client has errors of its own
        said = in_one_line(error)
        answered = isinstance(error, RestException) and error.get_http_status_code() < 500
        refused = answered or not (isinstance(error, MlflowException) or passing(error))
        return fault(what, f"not written ({said})", RIGHTS if refused else "look at the server's log", passing=not refused)


def _write_tag(client: "MlflowClient", recipe: str) -> str:
    experiment = client.get_experiment_by_name(recipe) if recipe else None
    if experiment is None:
        return "the recipe's experiment will be made"
    client.set_experiment_tag(experiment.experiment_id, TAG, "")
    client.delete_experiment_tag(experiment.experiment_id, TAG)
    return f"experiment {recipe} may be written to"


def _write_model(client: "MlflowClient", recipe: str) -> str:
    """A tag of the recipe's model where there is one; else a model that goes again."""
    from mlflow.exceptions import MlflowException

    try:
        there = bool(recipe and client.get_registered_model(recipe))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = False
    if there:
        client.set_registered_model_tag(recipe, TAG, "")
        client.delete_registered_model_tag(recipe, TAG)
        return f"model {recipe} may be written to"
    name = f"loraflow-preflight-{secrets.token_hex(8)}"
    client.create_registered_model(name)
    client.delete_registered_model(name)
    return "models may be registered"


def _write_artifact(client: "MlflowClient", recipe: str) -> str:
    """A file in the experiment's place for artifacts, by the way that the steps' own take: through the server, or to the store."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    experiment = (client.get_experiment_by_name(recipe) if recipe else None) or client.get_experiment(DEFAULT_EXPERIMENT)
    place = f"loraflow-preflight-{secrets.token_hex(8)}"
    store = get_artifact_repository(experiment.artifact_location)
    with tempfile.TemporaryDirectory(prefix=NAME) as folder:
        (Path(folder) / "probe").write_bytes(secrets.token_bytes(64))
        store.log_artifact(str(Path(folder) / "probe"), place)
    store.delete_artifacts(place)
    return f"{experiment.artifact_location} is written and cleaned"


def _database(path: Path) -> Finding:
    if not path.exists():
        return folder_finding("MLflow", path.parent, "LORAFLOW_MLFLOW_URI")
    try:
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # takes the lock of a writer, and gives it back
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        remedy = "give this user the right to write it, or see what holds it (LORAFLOW_MLFLOW_URI)"
        return fault("MLflow", f"{path} cannot be written ({error})", remedy, passing="locked" in str(error))
    return good("MLflow", f"{path} is a database that may be written to, by MLflow {metadata.version('mlflow')}")


def _server_version(uri: str) -> str:
    """The server's version as its page `/version` has it, where it is an MLflow server of the usual kind."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(get_default_host_creds(uri), "/version", "GET", max_retries=0, timeout=10)
    except Exception:  # no server of the usual kind; the client's own calls have been answered
        return ""
    return f", version {answer.text.strip():.20}" if answer.status_code == 200 else ""
