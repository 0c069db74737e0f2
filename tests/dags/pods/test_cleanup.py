"""The pods that a run's tasks have left behind are ended; no other run's."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.workspace.run import Run
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.parked import context, messages, park, perform, there_now
from tests.support.processes import until
from tests.support.quick_steps import hold

pytest_plugins = ["tests.support.parked"]
pytestmark = pytest.mark.usefixtures("pod_log")
MakeRun = Callable[..., Run]


def end_pods(run: Run, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """Take the task `end_pods` of a run; `meanwhile` is what happens between its looks."""
    from dags.pods import cleanup as end_pods

    monkeypatch.setattr(end_pods, "time", SimpleNamespace(sleep=lambda seconds: meanwhile()))
    end_pods.EndPods().execute(context(run, "end_pods"))


def test_pods_that_a_run_left_are_ended_and_no_other_run_s(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = (make_run(tiny_document, run_id, pods__grace_seconds=5) for run_id in ("left-behind", "goes-on"))
    for each in (run, other):
        hold(each, "download")
    left, kept = (park(each, "download")[1].pod_name for each in (run, other))
    end_pods(run, monkeypatch)
    until(lambda: left not in there_now(kubernetes_api))
    (goes_on,) = [pod for pod in kubernetes_api.pods() if pod["metadata"]["name"] == kept]
    assert "deletionTimestamp" not in goes_on["metadata"]
    assert f"{left}: its task ended without it, so it is ended" in messages(pod_log)


def test_a_pod_that_a_worker_makes_meanwhile_is_ended_too(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tiny_document, pods__grace_seconds=5)
    hold(run, "download")
    end_pods(run, monkeypatch, meanwhile=lambda: park(run, "download"))
    (pod,) = kubernetes_api.pods()
    until(lambda: not there_now(kubernetes_api))
    assert "deletionTimestamp" in kubernetes_api.pods()[0]["metadata"], pod


def test_where_nothing_is_left_nothing_is_ended(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tiny_document)
    perform(run, "download")
    deleted = [request.path for request in kubernetes_api.requests if request.method == "DELETE"]
    end_pods(run, monkeypatch)
    assert deleted == [request.path for request in kubernetes_api.requests if request.method == "DELETE"]
    assert messages(pod_log)[-1] == "no pod of this run is left in namespace loraflow"
