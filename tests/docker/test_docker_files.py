"""What `docker/` repeats of other files agrees with them, and what Compose opens, opens on loopback with passwords that are drawn."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tasks
from tasks.settings import CHECKOUT, Settings

DOCKER = CHECKOUT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
VARIABLE = re.compile(r"\$\{(\w+)(:?[-?][^}]*)?\}")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"])


def argument(dockerfile: Path, name: str) -> str | None:
    """Default of a build argument."""
    found = re.search(rf'^ARG {name}="?([^"\n]*)', dockerfile.read_text(), re.M)
    return found[1] if found else None


def made(name: str) -> str:
    """Value of a variable of the Makefile."""
    found = re.search(rf"^{name} := (.*)", (CHECKOUT / "Makefile").read_text(), re.M)
    assert found, name
    return found[1]


def test_versions_are_said_once_more_and_the_same() -> None:
    assert len(DOCKERFILES) == 3
    (locked,) = re.findall(r"^torch==(\S+)$", (CHECKOUT / "requirements.lock").read_text(), re.M)
    for dockerfile in DOCKERFILES:
        assert argument(dockerfile, "UV_VERSION") == made("UV_VERSION"), dockerfile.name
        assert argument(dockerfile, "VERSION") == tasks.__version__, dockerfile.name
        assert argument(dockerfile, "TORCH_VERSION") in (locked, None), dockerfile.name
        assert re.search(r":[\w.-]+(@sha256:[0-9a-f]{64})?$", argument(dockerfile, "BASE") or ""), dockerfile.name
    assert len({argument(dockerfile, "BASE") for dockerfile in DOCKERFILES}) == 1


def test_extras_are_those_of_the_project_and_locked_where_the_image_looks() -> None:
    known = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    for dockerfile in DOCKERFILES:
        extras = {option.removeprefix("--extra=") for option in (argument(dockerfile, "EXTRAS") or "").split()}
        lock = re.search(r"--constraint (\S+)", dockerfile.read_text())
        assert extras and lock and extras <= known, dockerfile.name
        locked = made("CLUSTER_EXTRAS" if lock[1] == "airflow.lock" else "EXTRAS").split()
        assert extras <= set(locked), dockerfile.name


def test_what_is_copied_into_an_image_passes_the_ignore_file() -> None:
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for dockerfile in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile.read_text(), re.M):
            assert set(line.split()) <= allowed, line
    assert all((CHECKOUT / path).exists() for path in allowed)


def test_compose_draws_every_secret_that_it_asks_for(services: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(DOCKER / "env.py", tmp_path)
    command = [sys.executable, str(tmp_path / "env.py")]
    subprocess.run(command, check=True, capture_output=True)
    place = tmp_path / ".env"
    before = place.read_text()
    drawn = dict(line.split("=", 1) for line in before.splitlines() if not line.startswith("#"))
    asked = {name for name, how in VARIABLE.findall((DOCKER / "compose.yaml").read_text()) if how.startswith(":?")}
    assert asked == drawn.keys() and all(len(value) >= 20 for value in drawn.values())
    assert place.stat().st_mode & 0o777 == 0o600
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "is there already" in again.stderr and place.read_text() == before


def test_compose_opens_ports_on_loopback_only_and_confines_every_service(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("ports")} == {"mlflow", "api-server"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["deploy"]["resources"]["limits"]["memory"], name
        assert "healthcheck" in service or name in ("prepare", "mlflow"), name  # one ends by itself, one has it in its image
        assert re.search(r":[\w.-]+(@sha256:[0-9a-f]{64})?$", service["image"]) and ":latest" not in service["image"], name


def test_compose_sets_only_settings_that_there_are(services: dict[str, Any]) -> None:
    given = {name for service in services.values() for name in service.get("environment", ()) if name.startswith("LORAFLOW_")}
    assert len(given) > 5 and given <= {f"LORAFLOW_{name.upper()}" for name in Settings.model_fields}


def test_only_the_gpu_brings_cuda() -> None:
    added = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    assert added["scheduler"]["build"]["args"]["TORCH"].startswith("cu")
    assert added["scheduler"]["image"] == added["prepare"]["image"]
