"""The images, built once from the Dockerfiles as they stand, and the table of what that took."""

import re
import subprocess
from dataclasses import dataclass, field
from typing import Any

import pytest

from tasks.settings import CHECKOUT
from tests.images import engine as engines
from tests.images import standins
from tests.images.engine import Engine

WORKER = "--extra=steps --extra=s3 --extra=dvc-s3 --extra=demo --extra=airflow --extra=kubernetes --extra=postgres"
"""EXTRAS of compose.yaml's scheduler; `test_compose_asks_for_what_is_tested` holds the two together."""

ROWS: list[tuple[str, ...]] = []
"""Lines of the table at the end: image, MB in all, MB above its base, seconds of its build."""


@dataclass(frozen=True)
class Image:
    """An image to build: its Dockerfile, and the arguments that it is built with."""

    name: str
    dockerfile: str
    args: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """Its name in the engine."""
        return f"localhost/loraflow/{self.name}:local"


IMAGES = {
    image.name: image
    for image in (
        Image("airflow", "airflow.Dockerfile"),
        Image("mlflow", "mlflow.Dockerfile"),
        Image("steps", "steps.Dockerfile"),
        Image("worker", "steps.Dockerfile", {"EXTRAS": WORKER}),
    )
}


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The container engine at hand."""
    return engines.find()


@pytest.fixture(scope="session")
def commit() -> str:
    """The commit that the images are built from."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """The base image that the Dockerfiles name, pulled or a stand-in."""
    named = {re.search(r"^ARG BASE=(\S+)", path.read_text(), re.M)[1] for path in (CHECKOUT / "docker").glob("*.Dockerfile")}  # type: ignore[index]
    assert len(named) == 1, f"the Dockerfiles name several bases: {named}"
    (name,) = named
    stand_in = standins.python_base(engine, name)
    ROWS.append((name + (" (stand-in)" if stand_in else ""), str(engine.megabytes(name)), "", ""))
    return name


class Images:
    """Built on first use."""

    def __init__(self, engine: Engine, base: str, commit: str) -> None:
        self._engine, self._base, self._commit = engine, base, commit
        self._built: set[str] = set()

    def __call__(self, name: str) -> str:
        """The tag of an image."""
        image = IMAGES[name]
        if name not in self._built:
            args = {"COMMIT": self._commit, **image.args}
            if image.dockerfile.startswith("steps") and standins.brings_torch():
                args["TORCH"] = ""  # a build for this machine lies where pip is told to look
            mounts = [f"{folder}:{folder}:ro" for folder in standins.local_folders()]
            seconds = self._engine.build(image.dockerfile, image.tag, args, mounts)
            size = self._engine.megabytes(image.tag)
            ROWS.append((image.name, str(size), str(size - self._engine.megabytes(self._base)), f"{seconds:.0f}"))
            self._built.add(name)
        return image.tag


@pytest.fixture(scope="session")
def images(engine: Engine, base: str, commit: str) -> Images:
    """Name to tag, built from the unchanged Dockerfiles."""
    return Images(engine, base, commit)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    if ROWS:
        terminalreporter.section("images")
        head = ("image", "MB", "above base", "build s")
        widths = [max(len(row[column]) for row in (head, *ROWS)) for column in range(len(head))]
        for row in (head, *ROWS):
            terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
