"""compose.yaml brought up once and a tiny recipe sent through its Airflow: part of `make test-images`.

All of it runs in a network namespace of its own that holds loopback alone, so no port is taken from anybody; services find one
another by name there. Stand-ins: moto's server for the object store, and Debian's Postgres where its image cannot be pulled.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.local_servers.configuration import environment_file
from tasks.settings import CHECKOUT
from tests.images import standins
from tests.images.conftest import WORKER, Images
from tests.images.engine import Engine
from tests.support import tiny

pytestmark = [pytest.mark.trains, pytest.mark.timeout(7200)]

COMPOSE = CHECKOUT / "docker" / "compose.yaml"
CLONE_NEWNET = 0x40000000
SERVERS = ("api-server", "scheduler", "dag-processor", "triggerer")


def test_compose_asks_for_what_is_tested() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert services["scheduler"]["build"]["args"]["EXTRAS"] == WORKER


def test_a_tiny_recipe_goes_through_the_composed_airflow(composed: "Composed") -> None:
    composed.up("postgres")
    composed.wait("postgres")
    composed.run_to_its_end("prepare")
    composed.up("mlflow", "api-server")
    composed.wait("mlflow"), composed.wait("api-server")
    composed.up("scheduler", "dag-processor", "triggerer")
    composed.wait("scheduler")
    airflow = httpx.Client(base_url="http://127.0.0.1:8080", timeout=120, trust_env=False)
    assert airflow.get("/api/v2/dags").status_code == 401
    login = {"username": "admin", "password": composed.secrets["AIRFLOW_ADMIN_PASSWORD"]}
    token = airflow.post("/auth/token", json=login).raise_for_status().json()["access_token"]
    airflow.headers["Authorization"] = f"Bearer {token}"
    dag = "/api/v2/dags/retrain_tiny"
    composed.until(lambda: airflow.get(dag).status_code == 200, "the recipe's DAG")
    assert airflow.get("/api/v2/importErrors").json()["import_errors"] == []
    run = airflow.post(f"{dag}/dagRuns", json={"logical_date": None, "conf": {"promotion": "auto"}}).raise_for_status().json()["dag_run_id"]
    path = f"{dag}/dagRuns/{run}"
    composed.until(lambda: airflow.get(path).json()["state"] in ("success", "failed"), "the end of the run", 3600)
    tasks = {one["task_id"]: one["state"] for one in airflow.get(f"{path}/taskInstances").json()["task_instances"]}
    if airflow.get(path).json()["state"] != "success":
        for name in (name for name, state in tasks.items() if state == "failed"):
            print(airflow.get(f"{path}/taskInstances/{name}/logs/1", headers={"Accept": "text/plain"}).text[-3000:])
        pytest.fail(f"{tasks}")
    mlflow = httpx.Client(base_url="http://127.0.0.1:5000", timeout=60, trust_env=False)
    alias = mlflow.get("/api/2.0/mlflow/registered-models/alias", params={"name": "tiny", "alias": "champion"}).raise_for_status().json()
    scores = [tag["value"] for tag in alias["model_version"]["tags"] if tag["key"] == "scores"]
    print("champion:", alias["model_version"]["version"], *scores)
    assert composed.objects("mlflow/") and composed.objects("dvc/")
    log = airflow.get(f"{path}/taskInstances/train/logs/1", headers={"Accept": "text/plain"}).text
    for secret in composed.secrets.values():
        assert secret not in log


class Composed:
    """The services of compose.yaml, brought up in phases, since podman-compose does not wait for health."""

    def __init__(self, engine: Engine, folder: Path, secrets_: dict[str, str], store: str) -> None:
        self._engine, self._folder, self.secrets, self._store = engine, folder, secrets_, store
        program = Path(sys.executable).parent / "podman-compose"
        self._command = [str(program), "-p", "loraflow-test", "--env-file", str(folder / ".env")]
        self._command += ["-f", str(COMPOSE), "-f", str(folder / "override.yaml")]

    def compose(self, *arguments: str, timeout: float = 900) -> "subprocess.CompletedProcess[str]":
        """A command of podman-compose."""
        command = [*self._command, *arguments]
        return subprocess.run(command, env=self._engine.env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)

    def up(self, *services: str) -> None:
        """Start services without those that they depend on, which are up already."""
        done = self.compose("up", "--detach", "--no-build", "--no-deps", *services)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def run_to_its_end(self, service: str) -> None:
        """Run a service that ends by itself."""
        done = self.compose("run", "--rm", "--no-deps", "-T", service)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def wait(self, service: str) -> None:
        """Wait until a service's own health check passes."""
        name = f"loraflow-test_{service}_1"
        self.until(lambda: self._engine.call("healthcheck", "run", name).returncode == 0, f"health of {service}", 900)

    def until(self, what: Any, expected: str, seconds: float = 900) -> None:
        """Wait for something to come to pass, and tell what the services said where it does not."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if what():
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                print(self.compose("logs", "--tail", "60").stdout[-12000:])
                pytest.fail(f"not in {seconds:.0f} s: {expected}")
            time.sleep(2)

    def objects(self, prefix: str) -> list[str]:
        """Keys in the bucket."""
        answer = httpx.get(f"{self._store}/loraflow", params={"list-type": "2", "prefix": prefix}, trust_env=False)
        return [part.partition("</Key>")[0] for part in answer.text.split("<Key>")[1:]]

    def down(self) -> None:
        """End everything, volumes too."""
        self.compose("down", "--volumes", "--timeout", "10")


@pytest.fixture(scope="module")
def composed(engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """Its secrets drawn, its images there, its network apart; gone afterwards."""
    if engine.name != "podman" or os.getuid() != 0:
        pytest.skip("this brings compose.yaml up with podman-compose, as root")
    for name in ("airflow", "mlflow", "worker"):  # under the names that compose.yaml has, below localhost/
        images(name)
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    standins.postgres(engine, services["postgres"]["image"])
    folder = tmp_path_factory.mktemp("composed")
    drawn = _drawn(folder)
    _write_override(folder, services)
    _own_network()
    moto = subprocess.Popen([sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "8333"], stderr=subprocess.DEVNULL)
    found = Composed(engine, folder, drawn, "http://127.0.0.1:8333")
    try:
        found.until(lambda: httpx.get("http://127.0.0.1:8333", trust_env=False).status_code < 500, "moto's server", 120)
        found.down()
        yield found
    finally:
        found.down()
        moto.terminate()
        moto.wait()


def _drawn(folder: Path) -> dict[str, str]:
    """What docker/env.py draws, drawn by itself: beside a copy of it."""
    shutil.copy(CHECKOUT / "docker" / "env.py", folder / "env.py")
    subprocess.run([sys.executable, str(folder / "env.py")], check=True)
    return environment_file(folder / ".env")


def _write_override(folder: Path, services: dict[str, Any]) -> None:
    """The one network, and a recipe on the tiny model in the place of the project's."""
    tiny.build_gemma(folder / "input" / "base")
    tiny.write_csv(folder / "input" / "tweets.csv", tiny.tweets(400))
    document = tiny.recipe_document(Path("/input/base"), Path("/input/tweets.csv"))
    (folder / "input" / "recipes").mkdir()
    (folder / "input" / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for path in (folder / "input").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "input").chmod(0o755)
    names = [f"{name}:127.0.0.1" for name in services]
    changed: dict[str, Any] = {}
    for name in services:
        changed[name] = {"network_mode": "host", "extra_hosts": names, "ports": []}
        if name in SERVERS:
            changed[name]["environment"] = {"LORAFLOW_RECIPES": "/input/recipes", "OMP_NUM_THREADS": "1"}
            changed[name]["volumes"] = [f"{folder / 'input'}:/input:ro"]
    (folder / "override.yaml").write_text(yaml.safe_dump({"services": changed}), encoding="utf-8")


def _own_network() -> None:
    """Move this process, and so what it starts from now on, to a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        pytest.skip(f"no network namespace to be had: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
