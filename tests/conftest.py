"""Fixtures that many tests share: dear set-up is made once a session, cheap state anew for each test."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from tasks.schema import load as recipes
from tasks.settings import TELEMETRY_OFF
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.guarded import (  # noqa: F401  hooks
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_report_header,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.support.kubernetes_api.fixture import any_cluster, kubernetes_api  # noqa: F401  fixtures for all
from tests.support.mlflow_server import running as tracking_server
from tests.support.moved_home import move_artifacts
from tests.support.s3_server import s3, s3_endpoint  # noqa: F401
from tests.support.stored_runs import fresh, new_machine  # noqa: F401

os.environ.update(TELEMETRY_OFF)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models on many threads wait for one another; two test processes share the cores instead.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long one example takes says more of the machine's other work than of ours.
hypothesis.settings.register_profile("shared cores", deadline=None)
hypothesis.settings.load_profile("shared cores")

CHECKOUT = Path(__file__).resolve().parent.parent

MODULES = 200
"""After the import of so many modules, their objects are worth freezing."""

_frozen_at = 0


def pytest_runtest_setup() -> None:
    """Let the garbage collection that follows each use of a model pass over imported libraries: 0.5 s a time."""
    global _frozen_at
    if len(sys.modules) > _frozen_at + MODULES:
        _frozen_at = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def shared_tmp(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this test session see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AIRFLOW_HOME of this process; a test that imports Airflow or `dags` asks for it first."""
    folder = tmp_path_factory.mktemp("airflow")
    os.environ.update(AIRFLOW_HOME=str(folder), AIRFLOW__CORE__DAGS_FOLDER=str(CHECKOUT / "dags"), AIRFLOW__CORE__LOAD_EXAMPLES="False")
    return folder


@pytest.fixture(scope="session")
def tiny_base(shared_tmp: Path) -> Path:
    """Folder of the tiny Gemma, built once."""
    folder = shared_tmp / "tiny-gemma"
    with FileLock(shared_tmp / "tiny-gemma.lock"):
        if not (folder / "tokenizer.json").exists():
            tiny.build_gemma(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_csv(shared_tmp: Path) -> Path:
    """A file of 400 made-up tweets, written once."""
    path = shared_tmp / "tweets.csv"
    with FileLock(shared_tmp / "tweets.lock"):
        if not path.exists():
            tiny.write_csv(path, tiny.tweets(400))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh LORAFLOW_HOME; no other setting of this machine shines through."""
    for name in [name for name in os.environ if name.startswith(("LORAFLOW_", "MLFLOW_"))]:
        if name not in ("LORAFLOW_MIRROR", "MLFLOW_DISABLE_TELEMETRY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LORAFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny_document(tiny_base: Path, tiny_csv: Path) -> dict[str, Any]:
    """The tiny recipe as a file would give it; a test may change it."""
    return tiny.recipe_document(tiny_base, tiny_csv)


@pytest.fixture
def make_run(home: Path) -> Callable[..., Run]:
    """Start a run of a recipe document."""

    def make(document: dict[str, Any], run_id: str = "test", **overrides: Any) -> Run:
        recipe = recipes.resolve(document, "full", {key.replace("__", "."): value for key, value in overrides.items()})
        run = Run(home / "runs" / recipe.name / run_id)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.freeze(recipe)
        return run

    return make


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data files; the test is skipped where there is none."""
    value = os.environ.get("LORAFLOW_MIRROR")
    if not value or not Path(value).is_dir():
        pytest.skip("LORAFLOW_MIRROR is not set to a folder with the recipes' source files")
    return Path(value)


@pytest.fixture(scope="session")
def trained_folder(shared_tmp: Path, tiny_base: Path) -> Path:
    """A home with one finished run of the tiny recipe up to `merge`, made once; tests work on copies (`trained`)."""
    home = shared_tmp / "trained-home"
    with FileLock(shared_tmp / "trained.lock"):
        if not (home / "runs/tiny/test/merge.json").exists():
            shutil.rmtree(home, ignore_errors=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LORAFLOW_HOME", str(home))
                run = tiny.start_at_train(home / "runs/tiny/test", tiny_base, tiny.tweets(360))
                for step in ("train", "merge"):
                    perform(step, run)
    return home


@pytest.fixture
def trained(home: Path, trained_folder: Path) -> Run:
    """A run of the tiny recipe, finished up to `merge`, in this test's own home (its MLflow database included)."""
    shutil.copytree(trained_folder, home, copy_function=os.link)
    database = home / "mlflow" / "mlflow.db"
    database.unlink()
    shutil.copyfile(trained_folder / "mlflow" / "mlflow.db", database)
    move_artifacts(database, str(trained_folder), str(home))
    return Run(home / "runs/tiny/test")


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real tracking server that keeps artifacts itself."""
    places = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/server.db", "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "served")}
    with tracking_server(tmp_path, places) as address:
        yield address
