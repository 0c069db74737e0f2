"""A folder of recipes of its own, and the DAGs that Airflow finds for it; as a pytest plugin it brings `recipes_folder`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.schema.form import Form
from tasks.schema.load import SWEEP_FORM
from tasks.settings import CHECKOUT
from tests.support import tiny

HEAVY = ["torch", "transformers", "peft", "trl", "mlflow", "dvc", "pandas", "great_expectations", "sklearn", "matplotlib", "datasets"]

PARSE = """
import json, sys
import airflow.sdk, airflow.models, airflow.serialization.serialized_objects
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions._internal.types import NOTSET
before = set(sys.modules)
bag = DagBag(sys.argv[1])
print("@" + json.dumps({
    "dags": {dag.dag_id: [task.task_id for task in dag.topological_sort()] for dag in bag.dags.values()},
    "errors": bag.import_errors,
    "heavy": sorted({name.partition(".")[0] for name in set(sys.modules) - before} & set(sys.argv[2].split(","))),
}))
"""


def parse(airflow_home: Path, heavy: str = ",".join(HEAVY), **environment: str) -> dict[str, Any]:
    """What a fresh process finds in the DAG folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORAFLOW_", "_AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(CHECKOUT / "dags"), heavy],
        env={**kept, "PYTHONPATH": str(CHECKOUT), "AIRFLOW_HOME": str(airflow_home), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    answer = [line for line in done.stdout.splitlines() if line.startswith("@")]
    assert answer, done.stderr[-3000:]
    return json.loads(answer[0][1:])


def write_recipe(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    document = tiny.recipe_document(Path("/base"), Path("/rows.csv"), name) | changes
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return document


@pytest.fixture
def recipes_folder(tmp_path: Path, home: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe folder of its own, with the recipe `first`."""
    folder = tmp_path / "recipes"
    write_recipe(folder, "first", local={"train": {"rows": 90}, "base_model": {"name": "folder:/small"}})
    monkeypatch.setenv("LORAFLOW_RECIPES", str(folder))
    return folder


def dag_of(folder: Path, name: str = "first") -> Any:
    from dags.retrain import retrain

    return retrain(Form.read(folder / f"{name}.yaml"))


GRID = {"rows": [12, 24], "epochs": [1, 2], "metrics": ["macro_f1"], "repeat_rows": 12, "repeat_seeds": [4]}


def sweep_of(folder: Path) -> Any:
    from dags.sweep import sweep

    return sweep(Form.read(folder / "gridded.yaml", SWEEP_FORM))
