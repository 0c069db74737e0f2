"""MLflow as the cluster runs it: its databases made by databases.sql in a real Postgres, and who may do what in it.

The server's own files count: databases.sql, mlflow-auth.ini and the commands of the Deployment; only addresses are changed.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from tasks.settings import quiet_environment
from tests.support import manifests, mlflow_server
from tests.support.postgres import running

pytest.importorskip("flask_wtf", reason="MLflow's accounts want Flask-WTF (pip install mlflow[auth])")

PASSWORDS = {"airflow": "airflow-password-1", "mlflow": "mlflow-password-2"}
ADMIN, STEPS, READER, REVIEWER = [(name, f"password-of-{name}") for name in ("admin", "loraflow", "reader", "reviewer")]
API, GRANT = "/api/2.0/mlflow", "/api/3.0/mlflow/users/permissions/grant"


@pytest.fixture(scope="module")
def databases() -> Iterator[str]:
    """Host and port of a Postgres in which databases.sql was run."""
    with running() as postgres:
        superuser = postgres.database("made")
        secrets = {f"{name.upper()}_PASSWORD": password for name, password in PASSWORDS.items()}
        command = ["psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", superuser, "-f", str(manifests.FOLDER / "databases.sql")]
        made = subprocess.run(command, env={**os.environ, **secrets}, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        yield f"127.0.0.1:{postgres.port}"


@pytest.fixture(scope="module")
def server(databases: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Deployment's two commands, one after the other."""
    folder = tmp_path_factory.mktemp("mlflow")
    environment = _environment(databases, folder)
    pod = manifests.one("Deployment", "mlflow", "mlflow")["spec"]["template"]["spec"]
    for _ in range(2):  # makes the tables, then finds them made
        upgrade = [sys.executable, "-m", *_command(pod["initContainers"][0], environment)]
        done = subprocess.run(upgrade, cwd=folder, env=quiet_environment() | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert PASSWORDS["mlflow"] not in done.stderr + done.stdout + " ".join(upgrade)
    with mlflow_server.running(folder, environment, _command(pod["containers"][0], environment)) as address:
        yield address
    assert PASSWORDS["mlflow"] not in (folder / "mlflow.log").read_text()


def _environment(databases: str, folder: Path) -> dict[str, str]:
    cluster = "postgres.postgres.svc.cluster.local:5432"
    auth = folder / "auth.ini"
    auth.write_text(manifests.text("mlflow-auth.ini").replace(cluster, databases), encoding="utf-8")
    shipped = {name: value.replace(cluster, databases) for name, value in manifests.environment("mlflow.env").items()}
    secret = {"PGPASSWORD": PASSWORDS["mlflow"], "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1], "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs"}
    assert set(secret) < set(manifests.environment("secrets/mlflow.env.example"))
    return shipped | secret | {"MLFLOW_AUTH_CONFIG_PATH": str(auth), "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts")}


def _command(container: dict[str, Any], environment: dict[str, str]) -> list[str]:
    """A container's arguments as they run there, `$(NAME)` filled in."""
    words = [environment[word[2:-1]] if word.startswith("$(") else word for word in container["args"]]
    assert words[0] == "mlflow"
    return words


Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask(server: str) -> Ask:
    """Ask MLflow's API in somebody's name."""

    def post(who: tuple[str, str] | None, path: str, method: str = "POST", **body: Any) -> httpx.Response:
        return httpx.request(method, server + (path if path.startswith("/api") else API + path), json=body, auth=who, timeout=60)

    for name, password in (STEPS, READER, REVIEWER):
        assert post(ADMIN, "/users/create", username=name, password=password).is_success
    return post


def test_each_service_has_its_own_database_and_no_other(databases: str) -> None:
    for user, others in (("airflow", ("mlflow", "mlflow_auth")), ("mlflow", ("airflow",))):
        psycopg2.connect(f"postgresql://{user}:{PASSWORDS[user]}@{databases}/{user}").close()
        for other in others:
            with pytest.raises(psycopg2.OperationalError, match="permission denied"):
                psycopg2.connect(f"postgresql://{user}:{PASSWORDS[user]}@{databases}/{other}")


def test_who_has_no_account_gets_in_nowhere(ask: Ask) -> None:
    assert ask(None, "/experiments/search", max_results=1).status_code == 401
    assert ask((STEPS[0], "wrong-password-1"), "/experiments/search", max_results=1).status_code == 401


def test_who_may_register_and_who_may_promote(ask: Ask) -> None:
    experiment = ask(STEPS, "/experiments/create", name="tiny").json()["experiment_id"]
    run = ask(STEPS, "/runs/create", experiment_id=experiment).json()["run"]["info"]
    assert ask(READER, "/runs/create", experiment_id=experiment).status_code == 403
    assert ask(STEPS, "/registered-models/create", name="tiny").is_success
    version = {"name": "tiny", "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
    assert ask(READER, "/model-versions/create", **version).status_code == 403
    assert ask(STEPS, "/model-versions/create", **version).json()["model_version"]["version"] == "1"

    def promote(who: tuple[str, str]) -> int:
        return ask(who, "/registered-models/alias", name="tiny", alias="champion", version="1").status_code

    assert ask(READER, "/registered-models/get?name=tiny", "GET").is_success
    assert promote(READER) == promote(REVIEWER) == 403
    grant = {"username": REVIEWER[0], "resource_type": "registered_model", "resource_id": "tiny", "permission": "EDIT"}
    assert ask(READER, GRANT, **grant).status_code == 403
    assert ask(ADMIN, GRANT, **grant).is_success
    assert promote(REVIEWER) == promote(STEPS) == 200 and promote(READER) == 403
    assert ask(REVIEWER, "/registered-models/delete", "DELETE", name="tiny").status_code == 403


def test_nobody_makes_accounts_but_an_admin(ask: Ask) -> None:
    assert ask(STEPS, "/users/create", username="friend", password="password-of-friend").status_code == 403
