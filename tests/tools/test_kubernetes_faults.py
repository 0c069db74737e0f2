"""What goes wrong with pods in clusters, as the small Kubernetes API shows it to real clients."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.support.kubernetes_api.fixture import AnyCluster, ended
from tests.support.kubernetes_api.images import CHECKOUT
from tests.support.kubernetes_api.manifests import PATIENT, pod
from tests.support.processes import until

pytestmark = pytest.mark.guards(
    "tests/support/kubernetes_api", "tests/support/http_server.py", "tasks/process/child.py", "requirements.lock"
)

LABELS = {"step": "train"}


@pytest.fixture
def cluster(any_cluster: AnyCluster) -> AnyCluster:
    return any_cluster


def ready(cluster: AnyCluster, name: str) -> None:
    """Start a pod and wait for its handler: without one, process 1 does not heed SIGTERM."""
    cluster.create(pod(name, PATIENT, LABELS))
    cluster.printed(name, "ready")


def condition(pod: Any, kind: str) -> tuple[str, str]:
    return next((one.status, one.reason) for one in pod.status.conditions if one.type == kind)


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (faults.evict(), "Evicted", "The node was low on resource: memory."),
        (faults.preempt_for_system, "Preempted", "Preempted in order to admit critical pod"),
        (faults.shut_down_node, "Terminated", "imminent node shutdown"),
    ],
)
def test_a_kubelet_ends_a_pod_and_its_status_says_why(
    kubernetes_api: KubernetesApi, cluster: AnyCluster, fault: Any, reason: str, said: str
) -> None:
    armed = kubernetes_api.arm(fault, step="train", log="ready")
    cluster.create(pod("one", PATIENT, LABELS))
    seen = cluster.finished("one")
    assert (armed.struck, seen.status.phase, seen.status.reason) == (["one"], "Failed", reason)
    assert said in seen.status.message
    assert condition(seen, "DisruptionTarget") == ("True", "TerminationByKubelet")
    assert ended(seen) == ("Error", 143)
    assert kubernetes_api.log("one") == "ready\nsaved\n", "it had its grace"


def test_a_fault_strikes_so_many_pods_though_they_share_a_name(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    armed = kubernetes_api.arm(faults.shut_down_node, step="train", log="ready", times=2)
    for _ in range(2):
        cluster.create(pod("one", PATIENT, LABELS))
        assert cluster.finished("one").status.reason == "Terminated"
        cluster.core.delete_namespaced_pod("one", cluster.namespace)
        cluster.gone("one")
    assert armed.struck == ["one", "one"]


@pytest.mark.parametrize(("fault", "reason"), [(faults.preempt, "PreemptionByScheduler"), (faults.drain, "EvictionByEvictionAPI")])
def test_a_pod_is_deleted_to_make_room(kubernetes_api: KubernetesApi, cluster: AnyCluster, fault: Any, reason: str) -> None:
    ready(cluster, "one")
    kubernetes_api.strike(fault, "one")
    cluster.gone("one")
    seen = kubernetes_api.pod("one")
    assert "deletionTimestamp" in seen["metadata"]
    assert ("DisruptionTarget", reason) in [(one["type"], one.get("reason")) for one in seen["status"]["conditions"]]
    assert (seen["status"]["phase"], kubernetes_api.log("one")) == ("Failed", "ready\nsaved\n")


def test_eviction_by_the_public_api(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    ready(cluster, "one")
    cluster.core.create_namespaced_pod_eviction("one", cluster.namespace, {"metadata": {"name": "one"}})
    cluster.gone("one")
    assert kubernetes_api.log("one").endswith("saved\n")


def test_out_of_memory(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    ready(cluster, "one")
    kubernetes_api.strike(faults.out_of_memory(), "one")
    seen = cluster.finished("one")
    assert (seen.status.phase, seen.status.reason, ended(seen)) == ("Failed", None, ("OOMKilled", 137))


def test_unschedulable_for_a_time(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    kubernetes_api.arm(faults.unschedulable(seconds=1), step="train")
    version = cluster.version
    cluster.create(pod("one", labels=LABELS))
    cluster.create(pod("other"))
    assert cluster.finished("one").status.phase == cluster.finished("other").status.phase == "Succeeded"
    states = [event["object"] for event in cluster.watch(version) if event["object"].metadata.name == "one"]
    seen = next(state for state in states if state.status.conditions)
    assert condition(seen, "PodScheduled") == ("False", "Unschedulable")
    assert seen.status.conditions[0].message.startswith("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert kubernetes_api.events("one")[0]["reason"] == "FailedScheduling"


def test_a_queue_holds_a_pod_by_a_gate(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    kubernetes_api.arm(faults.queue, step="train")
    cluster.create(pod("one", labels=LABELS))
    seen = cluster.until("one", lambda pod: pod.status.conditions)
    assert condition(seen, "PodScheduled") == ("False", "SchedulingGated") and seen.spec.scheduling_gates[0].name == faults.GATE
    kubernetes_api.release("one")
    assert cluster.finished("one").status.phase == "Succeeded"


def test_an_image_that_cannot_be_pulled(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    cluster.create(pod("one", container={"image": "registry.example/unknown:1"}))
    kubernetes_api.arm(faults.pull_error("toomanyrequests: rate limit"), step="train")
    cluster.create(pod("two", labels=LABELS))

    def waiting(name: str, reason: str) -> Any:
        def is_so(pod: Any) -> bool:
            return bool(pod.status.container_statuses) and pod.status.container_statuses[0].state.waiting.reason == reason

        return cluster.until(name, is_so).status.container_statuses[0].state.waiting

    for reason in ("ErrImagePull", "ImagePullBackOff"):
        assert "registry.example/unknown:1: not found" in waiting("one", reason).message
        assert "rate limit" in waiting("two", reason).message
    assert cluster.read("one").status.phase == "Pending"
    kubernetes_api.release("two")
    assert cluster.finished("two").status.phase == "Succeeded"


@pytest.mark.parametrize("at", ["running", "exiting", "finished"])
def test_a_pod_that_vanishes(kubernetes_api: KubernetesApi, cluster: AnyCluster, tmp_path: Path, at: str) -> None:
    go = tmp_path / "go"
    if at != "running":
        go.touch()
    version = cluster.version
    armed = kubernetes_api.arm(faults.lose, step="train", at=at)
    cluster.create(pod("one", f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('ran')", LABELS))
    armed.wait()
    cluster.gone("one")
    seen = cluster.watch(version)
    phases = {event["object"].status.phase for event in seen}
    assert seen[-1]["type"] == "DELETED" and ("Succeeded" in phases) is (at == "finished")
    assert (kubernetes_api.log("one") == "ran\n") is (at != "running")


@pytest.mark.parametrize("runs_on", [False, True])
def test_a_lost_node(kubernetes_api: KubernetesApi, cluster: AnyCluster, runs_on: bool) -> None:
    cluster.start(pod("one", "import time\nwhile True: print('on'); time.sleep(0.1)", LABELS))
    followed = cluster.core.read_namespaced_pod_log("one", cluster.namespace, follow=True, _preload_content=False)
    kubernetes_api.strike(faults.lose_node(runs_on=runs_on), "one")
    with pytest.raises(HTTPError):
        list(followed.stream())
    seen = cluster.read("one")
    assert (seen.status.phase, seen.status.reason, condition(seen, "Ready")) == ("Running", "NodeLost", ("False", "NodeNotReady"))
    assert seen.metadata.deletion_timestamp and seen.status.container_statuses[0].state.running
    with pytest.raises(client.ApiException, match="i/o timeout"):
        cluster.core.read_namespaced_pod_log("one", cluster.namespace)
    (life,) = kubernetes_api.cluster.lives.values()
    if runs_on:
        before = len(kubernetes_api.log("one"))
        until(lambda: len(kubernetes_api.log("one")) > before)
    else:
        until(lambda: life.containers[0].done)
    assert cluster.read("one").status.phase == "Running", "nobody there confirms its end"


def test_a_pod_of_a_lost_node_is_collected(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    cluster.start(pod("one", PATIENT, LABELS))
    kubernetes_api.strike(faults.lose_node(gone_after=0.2), "one")
    cluster.gone("one")


def test_faults_wait_for_their_pods_and_are_used_up(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    first = kubernetes_api.arm(faults.out_of_memory(), step="train", after=0.2)
    cluster.start(pod("one", PATIENT, LABELS))
    cluster.start(pod("two", PATIENT, LABELS))
    assert ended(cluster.finished("one")) == ("OOMKilled", 137)
    assert first.struck == ["one"]
    time.sleep(0.4)
    assert cluster.read("two").status.phase == "Running"
    late = kubernetes_api.arm(faults.evict(grace=0), step="train", log="ready")
    assert late.wait() == "two" and ended(cluster.finished("two")) == ("Error", 137)


CHILD = "import os, subprocess, time\nprint(subprocess.Popen(['sleep', '60']).pid, os.getpid(), flush=True)\ntime.sleep(60)"


def alive(pids: str) -> list[str]:
    return [pid for pid in pids.split() if psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE]


def test_no_process_outlives_the_fake(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    cluster.start(pod("one", CHILD, LABELS))
    cluster.printed("one", "\n")
    pids = cluster.log("one")
    assert len(alive(pids)) == 2
    kubernetes_api.close()
    assert not alive(pids)


def test_no_process_outlives_a_fake_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.kubernetes_api", "--kubeconfig", str(tmp_path / "config")]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout and "http://127.0.0.1:" in server.stdout.readline()
            core = client.CoreV1Api(config.new_client_from_config(str(tmp_path / "config")))
            cluster = AnyCluster(tmp_path / "config", NAMESPACE, core)
            cluster.start(pod("one", CHILD))
            cluster.printed("one", "\n")
            pids = cluster.log("one")
            assert len(alive(pids)) == 2
        finally:
            server.kill()
    until(lambda: not alive(pids))
