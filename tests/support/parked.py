"""A pod's task as Airflow takes it: executed, parked with its trigger, taken up again, each time by an operator made anew.

As a pytest plugin it brings the fixture `pod_log`: a cluster as the settings name it, and what is logged about its pods.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.workspace.run import Run
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.kubernetes_api.images import QUICK_STEPS as IMAGE


@pytest.fixture
def pod_log(airflow_home: Path, home: Path, kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The settings of a cluster whose pods run quick steps; what operators and triggers log: records with `event` and `log_level`."""
    import airflow.settings  # noqa: F401  sets its logging up
    from structlog.testing import capture_logs

    from dags.pods import operator as pod_step

    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubernetes_api.kubeconfig)}}
    monkeypatch.setenv("AIRFLOW_CONN_LORAFLOW_CLUSTER", json.dumps(connection))
    monkeypatch.setenv("LORAFLOW_KUBERNETES_CONN", "loraflow_cluster")
    monkeypatch.setenv("LORAFLOW_RUNNER", "kubernetes")
    monkeypatch.setenv("LORAFLOW_IMAGE", IMAGE)
    for name, seconds in {"POLL_SECONDS": 0.2, "QUOTA_SECONDS": 0.2, "MANIFEST_SECONDS": 0.0}.items():
        monkeypatch.setattr(pod_step, name, seconds)
    with capture_logs() as records:
        yield records


class Store(dict[str, Any]):
    """A task's own state in Airflow, as the operator sees it."""

    set = dict.__setitem__


def operator(run: Run, step: str) -> Any:
    """The operator of a run's step, as a DAG makes it."""
    from dags.operators import retries, runners

    return runners.step(step, run.recipe, **retries.RETRIES)


def context(run: Run, step: str, *, max_tries: int = 2, try_number: int = 1) -> dict[str, Any]:
    """What Airflow hands to an operator, as far as ours reads it."""
    dag_id = f"retrain_{run.recipe.name}"
    ti = SimpleNamespace(max_tries=max_tries, try_number=try_number, dag_id=dag_id, task_id=step, map_index=-1)
    return {"ti": ti, "run_id": run.folder.name, "dag": SimpleNamespace(dag_id=dag_id), "task_state_store": Store()}


def perform(
    run: Run, step: str, *, parked: Callable[[Any], None] | None = None, make: Callable[[], Any] | None = None, **about: Any
) -> Any:
    """Take a task from its start to its end, however often it is parked.

    Args:
        run: the run.
        step: its step.
        parked: is called with each trigger before it runs.
        make: makes the operator. Default: as for a step of the DAG.
        about: the try's numbers.

    Raises:
        SystemExit: the task failed.
    """
    from airflow.sdk.exceptions import TaskDeferred

    try_ = context(run, step, **about)
    method, kwargs = "execute", {}
    while True:
        try:
            return getattr(make() if make else operator(run, step), method)(try_, **kwargs)
        except TaskDeferred as deferred:
            if parked:
                parked(deferred.trigger)
            event = json.loads(json.dumps(asyncio.run(_first_event(again(deferred.trigger))), default=str))
            method, kwargs = deferred.method_name, {**(deferred.kwargs or {}), "event": event}


def park(run: Run, step: str, **about: Any) -> tuple[Any, Any]:
    """Operator and trigger of a task that is parked for the first time."""
    from airflow.sdk.exceptions import TaskDeferred

    task = operator(run, step)
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context(run, step, **about))
    return task, caught.value.trigger


def fails(run: Run, step: str, **about: Any) -> tuple[int, str]:
    """Exit code of a task that fails, and what its retry policy makes of it."""
    with pytest.raises(SystemExit) as caught:
        perform(run, step, **about)
    assert isinstance(caught.value.code, int)
    return caught.value.code, str(operator(run, step).retry_policy.evaluate(caught.value, 1, 2).action.value)


def again(trigger: Any) -> Any:
    """The trigger as a triggerer makes it, from what Airflow keeps of it."""
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**kwargs)


def messages(log: Any) -> list[str]:
    """What was logged, but for Airflow's remark about this way of running an operator."""
    return [record["event"] for record in log if "cannot be called outside" not in record["event"]]


def there_now(api: KubernetesApi) -> list[str]:
    """Names of the pods that exist."""
    return [pod["metadata"]["name"] for pod in api.cluster.store.all("pods", "loraflow")[0]]


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
