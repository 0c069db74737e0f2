"""What the pods' classes use of the Kubernetes provider's private names, which may change without notice."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.settings import CHECKOUT

USED = {
    "PodStep": {"_get_ti_pod_labels", "_persist_pod_identity_to_task_state_store"},
    "PodWatch": {"_fired_event"},
}
"""Private names of the provider that each class of ours uses."""


@pytest.fixture
def provided(airflow_home: Path) -> dict[str, Any]:
    """The provider's class, or an object of it, below each class of ours."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

    trigger = KubernetesPodTrigger(pod_name="pod", pod_namespace="default", trigger_start_time=None, base_container_name="base")
    return {"PodStep": KubernetesPodOperator, "PodWatch": trigger}


def classes() -> Iterator[ast.ClassDef]:
    for path in sorted((CHECKOUT / "dags" / "pods").glob("*.py")):
        yield from (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef) and node.bases)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private(tree: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> set[str]:
    """Private names of `self`, `super()` and anything else that is read or set."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, context)}
    return set(filter(is_private, found))


def defined(within: ast.ClassDef) -> set[str]:
    """The class's own methods, and what its `__init__` sets."""
    methods = [node for node in within.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {method.name for method in methods}.union(*(private(method, ast.Store) for method in methods if method.name == "__init__"))


def test_every_private_name_of_the_provider_is_listed() -> None:
    used = {within.name: private(within) - defined(within) for within in classes()}
    assert {name: names for name, names in used.items() if names} == USED


@pytest.mark.parametrize(("ours", "name"), [(ours, name) for ours, names in USED.items() for name in sorted(names)])
def test_the_provider_has_each_private_name(provided: dict[str, Any], ours: str, name: str) -> None:
    assert hasattr(provided[ours], name), f"{ours} uses {name}, which this version of the Kubernetes provider does not have"


def test_no_private_name_of_ours_replaces_one_of_the_provider(provided: dict[str, Any]) -> None:
    for within in classes():
        if within.name in USED:
            clash = set(filter(is_private, defined(within) & set(dir(provided[within.name]))))
            assert not clash, f"{within.name} replaces {', '.join(sorted(clash))} of the Kubernetes provider: rename it"
