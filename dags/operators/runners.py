"""Step → operator: the only place that knows where a step runs, as a process beside Airflow or as a pod."""

import ast
from importlib import import_module
from typing import Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.definitions.mappedoperator import MappedOperator

from dags.operators.local import LocalPlan, LocalStep, LocalTrial
from tasks.schema.recipe import Recipe
from tasks.settings import CHECKOUT, settings


def step(name: str, recipe: Recipe, **options: Any) -> BaseOperator:
    """The operator that runs a step of a recipe's runs, under the step's own name.

    Args:
        name: the step.
        recipe: the recipe, in the default profile.
        options: further arguments of the operator, `trigger_rule` for example.
    """
    return _kind(name, recipe, "Step", LocalStep)(**_own(name, recipe), **options)


def trials(recipe: Recipe) -> tuple[BaseOperator, MappedOperator]:
    """The operator of `sweep_plan`, and of `sweep_trial` for each trial that it plans, so many at once as the settings say."""
    planned = _kind("sweep_plan", recipe, "Plan", LocalPlan)(**_own("sweep_plan", recipe))
    taken = (
        _kind("sweep_trial", recipe, "Trial", LocalTrial)
        .partial(**_own("sweep_trial", recipe), max_active_tis_per_dagrun=settings().sweep_trainings, map_index_template="{{ task.part }}")
        .expand(part=XComArg(planned))
    )
    return planned, taken


def closing(recipe: Recipe) -> list[BaseOperator]:
    """What follows the last step, whatever became of the others: where steps are pods, the end of those left behind."""
    if settings().runner == "local" or not recipe.pods.steps:
        return []
    return [import_module("dags.pods.cleanup").EndPods().as_teardown()]  # no matter for how the run ends


def _kind(name: str, recipe: Recipe, kind: str, local: type[BaseOperator]) -> type[BaseOperator]:
    """The operator's class; that of a pod is imported only where there are pods, since it brings Kubernetes' client along."""
    if settings().runner == "local" or not recipe.pods.take(name):
        return local
    found: type[BaseOperator] = getattr(import_module("dags.pods.operator"), f"Pod{kind}")
    return found


def _own(name: str, recipe: Recipe) -> dict[str, Any]:
    return {"step": name, "recipe": recipe.name, "task_id": name, "doc_md": docstring(name)}


def docstring(name: str) -> str | None:
    """What a step says of itself, read from the head of its file without importing it."""
    file = (CHECKOUT / "tasks" / f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(file[: file.find('"""', 3) + 3]))  # parsing all of it would take longest of all here
    if text is None:
        return None
    first, _, rest = text.partition("\n\n")
    return f"{first}\n\n```\n{rest}\n```" if rest else first
