"""The DAGs where steps run as pods: as Airflow parses them, keeps them and begins them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.dag_folder import GRID, HEAVY, dag_of, parse, sweep_of, write_recipe

pytest_plugins = ["tests.support.dag_folder"]

CLUSTER = {
    "LORAFLOW_RUNNER": "kubernetes", "LORAFLOW_IMAGE": "steps:1", "LORAFLOW_RUNS": "s3://bucket/runs", "LORAFLOW_HUB": "hub:team",
    "LORAFLOW_DATA_REPO": "git@host:data.git", "LORAFLOW_DVC_REMOTE": "s3://bucket/dvc", "LORAFLOW_MLFLOW_URI": "http://mlflow",
}  # fmt: skip


def test_a_cluster_s_client_is_imported_where_steps_are_pods_alone(airflow_home: Path, recipes_folder: Path) -> None:
    kubernetes = ",".join(["kubernetes", "kubernetes_asyncio", *HEAVY])
    here = parse(airflow_home, kubernetes, LORAFLOW_RECIPES=str(recipes_folder))
    there = parse(airflow_home, kubernetes, LORAFLOW_RECIPES=str(recipes_folder), **CLUSTER)
    assert (here["errors"], here["heavy"]) == ({}, [])
    assert (there["errors"], there["heavy"]) == ({}, ["kubernetes", "kubernetes_asyncio"])
    assert {dag: [*tasks, "end_pods"] for dag, tasks in here["dags"].items()} == there["dags"]


def test_the_steps_that_a_recipe_names_are_pods_and_the_others_processes(recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(dag: Any) -> dict[str, str]:
        found = {task.task_id: getattr(task, "operator_class", type(task)).__name__ for task in dag.tasks}
        return {step: kind for step, kind in found.items() if kind not in ("Start", "Approve", "EndPods")}

    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    assert set(kinds(dag_of(recipes_folder)).values()) == {"PodStep"}
    write_recipe(recipes_folder, "gridded", sweep=GRID)
    swept = kinds(sweep_of(recipes_folder))
    assert (swept.pop("sweep_plan"), swept.pop("sweep_trial"), set(swept.values())) == ("PodPlan", "PodTrial", {"PodStep"})
    write_recipe(recipes_folder, "first", pods={"steps": ["train", "evaluate"]})
    some = kinds(dag_of(recipes_folder))
    assert {step for step, kind in some.items() if kind == "PodStep"} == {"train", "evaluate"}
    assert {kind for step, kind in some.items() if step not in ("train", "evaluate")} == {"LocalStep"}
    monkeypatch.setenv("LORAFLOW_RUNNER", "local")
    assert set(kinds(dag_of(recipes_folder)).values()) == {"LocalStep"}


def test_a_dag_of_pods_is_kept_by_airflow_and_read_again(recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    write_recipe(recipes_folder, "gridded", sweep=GRID)
    for dag in (dag_of(recipes_folder), sweep_of(recipes_folder)):
        again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert set(again.task_ids) == set(dag.task_ids)
        assert [link.name for link in dag.get_task("evaluate" if "evaluate" in dag.task_ids else "sweep_trial").operator_extra_links] == [
            "MLflow"
        ]


def test_start_says_at_once_what_pods_would_miss(recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from structlog.testing import capture_logs

    from tasks.settings import settings

    for name in ("LORAFLOW_RUNNER", "LORAFLOW_IMAGE"):
        monkeypatch.setenv(name, CLUSTER[name])
    start, run_id = dag_of(recipes_folder).get_task("start"), "manual"
    context = {"params": {}, "dag_run": SimpleNamespace(conf={}), "run_id": run_id}
    with capture_logs() as log, pytest.raises(SystemExit) as caught:
        start.execute(context)
    lines = log[-1]["event"].splitlines()
    assert caught.value.code == 78 and [line.partition(":")[0] for line in lines] == [
        "SettingsErrors", "LORAFLOW_RUNS", "LORAFLOW_MLFLOW_URI", "LORAFLOW_DATA_REPO", "LORAFLOW_DVC_REMOTE", "LORAFLOW_HUB",
    ]  # fmt: skip
    assert not (settings().home / "runs").exists()
    monkeypatch.setenv("LORAFLOW_RUNNER", "local")
    start.execute(context)
    assert (settings().home / "runs" / "first" / "manual" / "recipe.yaml").exists()
