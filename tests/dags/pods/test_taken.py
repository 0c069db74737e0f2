"""A pod that is taken away, and a task whose worker, trigger or cluster is: neither kills nor doubles what is under way."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Download
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.parked import again, context, fails, messages, operator, park, perform, there_now
from tests.support.processes import until
from tests.support.quick_steps import hold, release

pytest_plugins = ["tests.support.parked"]
pytestmark = pytest.mark.usefixtures("pod_log")
MakeRun = Callable[..., Run]


@pytest.mark.parametrize("fault", [faults.evict(grace=0.2), faults.preempt, faults.drain, faults.shut_down_node, faults.lose])
def test_a_pod_that_the_cluster_takes_is_followed_by_another_in_the_same_try(
    fault: faults.Fault, make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document, pods__grace_seconds=5)
    kubernetes_api.arm(fault, log="download: run")
    perform(run, "download")
    assert run.has(Download) and len(kubernetes_api.pods()) == 2
    (warned,) = [record["event"] for record in pod_log if record["log_level"] == "warning" and "another pod" in record["event"]]
    assert re.search(r"evicted \(|went away|vanished|was told to end", warned)
    assert not [record for record in pod_log if record["log_level"] == "error"]


def test_a_pod_on_a_lost_node_is_removed_by_force(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dags.pods import status

    monkeypatch.setattr(status, "STUCK_SECONDS", -4.0)  # of a grace of five seconds
    run = make_run(tiny_document, pods__grace_seconds=5)
    kubernetes_api.arm(faults.lose_node(), log="download: run")
    perform(run, "download")
    assert run.has(Download) and len(kubernetes_api.pods()) == 2
    assert any("so its node counts as lost: it is removed by force" in message for message in messages(pod_log))


def test_a_cluster_that_takes_pods_without_end_fails_the_try(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dags.pods import operator as pod_step

    monkeypatch.setattr(pod_step, "PODS_OF_A_TRY", 0)
    kubernetes_api.arm(faults.lose, log="download: run")
    assert fails(make_run(tiny_document), "download") == (75, "default")
    assert "download: the cluster took 1 of its pods away" in messages(pod_log)[-1]


def test_out_of_memory_is_noted_once_and_tried_again(home: Path, tiny_base: Path, kubernetes_api: KubernetesApi, pod_log: Any) -> None:
    run = tiny.start_at_train(home / "runs/tiny/test", tiny_base, tiny.tweets(200))
    kubernetes_api.arm(faults.out_of_memory(), log="train: run")
    assert fails(run, "train") == (71, "default")
    assert run.halvings("train") == 1
    assert "killed for want of memory (OOMKilled) (expected: to do with 4Gi). Fix: the next try takes half" in messages(pod_log)[-1]


def test_out_of_memory_where_nothing_can_be_halved_is_final(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    kubernetes_api.arm(faults.out_of_memory(), log="download: run")
    assert fails(make_run(tiny_document), "download") == (64, "fail")
    assert messages(pod_log)[-1].endswith("to do with 4Gi). Fix: raise pods.step_resources.download.memory")


@pytest.mark.parametrize("point", ["exiting", "finished"])
def test_the_manifest_is_success_though_its_pod_vanished(
    point: str, make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    kubernetes_api.arm(faults.lose, at=point)
    perform(run, "download")
    assert run.has(Download) and len(kubernetes_api.pods()) == 1
    assert not [record for record in pod_log[1:] if record["log_level"] != "info"]


def test_an_api_that_stumbles_holds_nothing_up_and_doubles_no_line(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run, stumbled = make_run(tiny_document), False

    def stumble(trigger: Any) -> None:
        nonlocal stumbled
        if not stumbled:
            kubernetes_api.cut_calls(2)
            kubernetes_api.fail(503, 3, path="/pods/")
            kubernetes_api.expire_token(2)
        stumbled = True

    perform(run, "download", parked=stumble)
    printed = [record["event"] for record in pod_log if "timestamp" in record]
    assert printed == kubernetes_api.log(kubernetes_api.pods()[0]["metadata"]["name"]).splitlines()
    assert any("the cluster does not answer (" in message for message in messages(pod_log))


def test_an_api_that_is_silent_for_long_leaves_the_pod_to_the_next_try(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dags.pods import trigger as pod_watch

    monkeypatch.setattr(pod_watch, "OUTAGE_SECONDS", 0.3)
    run = make_run(tiny_document)
    assert fails(run, "download", parked=lambda _: kubernetes_api.expire_token(10)) == (75, "default")
    assert "the cluster did not answer (ApiException: Unauthorized)" in messages(pod_log)[-1]
    kubernetes_api.recover()
    perform(run, "download", try_number=2)
    assert run.has(Download) and len(kubernetes_api.pods()) == 1


def test_a_worker_s_death_neither_kills_nor_doubles_a_pod(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    hold(run, "download")
    park(run, "download")  # and nobody ever hears of this try again
    perform(run, "download", parked=lambda _: release(run, "download"), try_number=2)
    assert run.has(Download) and len(kubernetes_api.pods()) == 1
    assert any(message.endswith("was made by an earlier try, and goes on") for message in messages(pod_log))


def test_a_pod_that_ended_well_while_its_worker_was_dead_is_read_and_removed(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    park(run, "download")
    until(lambda: run.has(Download))
    perform(run, "download", try_number=2)
    (pod,) = kubernetes_api.pods()
    assert there_now(kubernetes_api) == []
    assert kubernetes_api.log(pod["metadata"]["name"]).splitlines()[0] in messages(pod_log)


def test_of_two_workers_at_once_one_makes_the_pod(make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi) -> None:
    run = make_run(tiny_document)
    triggers: list[Any] = []
    threads = [threading.Thread(target=lambda: triggers.append(park(run, "download")[1])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kubernetes_api.pods()) == 1 and len({trigger.uid for trigger in triggers}) == 1


@pytest.mark.parametrize("deferred", [False, True])
def test_a_task_that_is_marked_or_cleared_ends_its_pod(
    deferred: bool, make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document, pods__grace_seconds=5)
    hold(run, "download")
    task, trigger = park(run, "download")
    if deferred:
        asyncio.run(again(trigger).on_kill())
    else:
        task.on_kill()
    until(lambda: not there_now(kubernetes_api))
    (pod,) = kubernetes_api.pods()
    assert "deletionTimestamp" in pod["metadata"] and any("ending pod" in message for message in messages(pod_log))


def test_a_cleared_task_waits_for_its_earlier_pod_to_end(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document, pods__grace_seconds=5)
    hold(run, "download")
    park(run, "download")
    perform(run, "download", parked=lambda trigger: trigger.awaiting_deletion or release(run, "download"), try_number=2, max_tries=3)
    first, second = kubernetes_api.pods()
    asked = [(request.method, request.code) for request in kubernetes_api.requests if "/log" not in request.path]
    told = asked.index(("DELETE", 200))
    gone = asked.index(("GET", 404), told)
    assert asked.index(("POST", 201), told) > gone and first["metadata"]["name"] == second["metadata"]["name"]
    assert run.generation("download") == 1
    assert any(message.endswith("of an earlier try has to end first") for message in messages(pod_log))


def test_what_ends_a_pod_leaves_the_next_one_of_its_name_alone(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi
) -> None:
    run = make_run(tiny_document)
    hold(run, "download")
    task, trigger = park(run, "download")
    kubernetes_api.strike(faults.lose, trigger.pod_name)
    assert there_now(kubernetes_api) == []
    park(run, "download", try_number=2)
    task.on_kill()
    asyncio.run(again(trigger).on_kill())
    (pod,) = kubernetes_api.cluster.store.all("pods", "loraflow")[0]
    assert pod["metadata"]["name"] == trigger.pod_name and "deletionTimestamp" not in pod["metadata"]


def test_a_cluster_that_cannot_be_reached_is_told_in_our_words(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenacity import wait_none

    from dags.pods.api import PodApi

    run = make_run(tiny_document)
    kubernetes_api.forbid("get", "pods")
    assert fails(run, "download") == (78, "fail")
    assert "download: the cluster: forbids it (pods " in messages(pod_log)[-1] and "docs/kubernetes.md" in messages(pod_log)[-1]
    kubernetes_api.recover()
    kubernetes_api.expire_token(1)
    assert fails(run, "download") == (75, "default") and "answered 401 (Unauthorized)" in messages(pod_log)[-1]
    monkeypatch.setattr(PodApi.find.retry, "wait", wait_none())  # type: ignore[attr-defined]
    kubernetes_api.cut_calls(100)
    assert fails(run, "download") == (75, "default") and "the cluster: no answer (" in messages(pod_log)[-1]
    monkeypatch.setenv("LORAFLOW_KUBERNETES_CONN", "nobody_knows_it")
    assert fails(run, "download") == (78, "fail") and "set LORAFLOW_KUBERNETES_CONN" in messages(pod_log)[-1]


def test_without_a_connection_it_is_the_cluster_that_airflow_runs_in(
    make_run: MakeRun, tiny_document: Any, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORAFLOW_KUBERNETES_CONN")
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", "kubernetes://?extra__kubernetes__kube_config_path=%2Fnowhere")
    run = make_run(tiny_document)
    task = operator(run, "download")
    assert (task.hook.conn_id, task.hook.in_cluster) == (None, True)
    assert fails(run, "download") == (78, "fail")
    assert "no way to it (Service host/port is not set.)" in messages(pod_log)[-1]


def test_a_pod_that_has_come_right_meanwhile_is_watched_on_from_where_its_log_was_read(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    run = make_run(tiny_document)
    kubernetes_api.arm(faults.unschedulable())
    task, trigger = park(run, "download")
    event = {
        "status": "ended",
        "uid": trigger.uid,
        "awaiting_deletion": False,
        "position": {"at": 7, "lines": 2},
        "state": {"taken": 3},
        "last": {},
        "error": "",
    }
    with pytest.raises(TaskDeferred) as caught:
        task.watched(context(run, "download"), event)
    on = again(caught.value.trigger)
    assert (on.uid, on.position, on.state) == (trigger.uid, {"at": 7, "lines": 2}, {"taken": 3})
