"""A pod's task as Airflow takes it: executed, parked with its trigger, taken up again, each time by an operator made anew."""

import asyncio
import json
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from tasks.workspace import Run

MakeOperator = Callable[[], Any]


class Store(dict[str, Any]):
    """A task's own state in Airflow, as the operator sees it."""

    set = dict.__setitem__


def context(run: Run, step: str, *, max_tries: int = 2, try_number: int = 1, map_index: int = -1) -> dict[str, Any]:
    """What Airflow hands to an operator, as far as ours reads it."""
    dag_id = f"retrain_{run.recipe.name}"
    ti = SimpleNamespace(max_tries=max_tries, try_number=try_number, dag_id=dag_id, task_id=step, map_index=map_index)
    return {"ti": ti, "run_id": run.folder.name, "dag": SimpleNamespace(dag_id=dag_id), "task_state_store": Store()}


def perform(make: MakeOperator, run: Run, step: str, *, parked: Callable[[Any], None] | None = None, **about: Any) -> Any:
    """Take a task from its start to its end, however often it is parked.

    Args:
        make: makes the operator.
        run: the run.
        step: the task's name.
        parked: is called with each trigger before it runs.
        about: the try's numbers.

    Raises:
        SystemExit: the task failed.
    """
    from airflow.sdk.exceptions import TaskDeferred

    try_ = context(run, step, **about)
    method, kwargs = "execute", {}
    while True:
        try:
            return getattr(make(), method)(try_, **kwargs)
        except TaskDeferred as deferred:
            if parked:
                parked(deferred.trigger)
            event = json.loads(json.dumps(asyncio.run(first_event(again(deferred.trigger)))))
            method, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": event}


def again(trigger: Any) -> Any:
    """The trigger as a triggerer makes it, from what Airflow keeps of it."""
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**kwargs)


async def first_event(trigger: Any) -> Any:
    """What a trigger says first."""
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
