"""What goes wrong in clusters, as the small Kubernetes API shows it to real clients."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config, watch
from urllib3.exceptions import HTTPError

from tests.kubernetes_api import faults
from tests.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.kubernetes_api.manifests import PATIENT, pod

Core = client.CoreV1Api
LABELS = {"step": "train"}


@pytest.fixture
def api(kubernetes_api: KubernetesApi) -> KubernetesApi:
    return kubernetes_api


@pytest.fixture
def core(api: KubernetesApi) -> Core:
    settings = client.Configuration()
    config.load_kube_config(str(api.kubeconfig), client_configuration=settings)
    settings.retries = False
    return Core(client.ApiClient(settings))


def until(core: Core, name: str, wanted: Callable[[Any], object], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not wanted(seen := core.read_namespaced_pod(name, NAMESPACE)):
        assert time.monotonic() < deadline, seen.status
        time.sleep(0.05)
    return seen


def gone(core: Core, name: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            core.read_namespaced_pod(name, NAMESPACE)
        except client.ApiException as refused:
            assert refused.status == 404
            return
        time.sleep(0.05)
    pytest.fail(f"{name} is still there")


def over(core: Core, name: str) -> Any:
    return until(core, name, lambda pod: pod.status.phase in ("Succeeded", "Failed"))


def started(core: Core, name: str, code: str = PATIENT, **spec: Any) -> Any:
    core.create_namespaced_pod(NAMESPACE, pod(name, code, LABELS, **spec))
    return until(core, name, lambda pod: pod.status.phase == "Running")


def ready(core: Core, name: str) -> None:
    """Start a pod and wait for its handler: without one, process 1 does not heed SIGTERM."""
    started(core, name)
    until(core, name, lambda _: b"ready" in core.read_namespaced_pod_log(name, NAMESPACE, _preload_content=False).data)


def condition(pod: Any, kind: str) -> tuple[str, str]:
    return next((one.status, one.reason) for one in pod.status.conditions if one.type == kind)


def ended(pod: Any) -> tuple[str, int]:
    state = pod.status.container_statuses[0].state.terminated
    return state.reason, state.exit_code


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (faults.evict(), "Evicted", "The node was low on resource: memory."),
        (faults.preempt_for_system, "Preempted", "Preempted in order to admit critical pod"),
        (faults.shut_down_node, "Terminated", "imminent node shutdown"),
    ],
)
def test_a_kubelet_ends_a_pod_and_its_status_says_why(api: KubernetesApi, core: Core, fault: Any, reason: str, said: str) -> None:
    armed = api.arm(fault, step="train", log="ready")
    core.create_namespaced_pod(NAMESPACE, pod("one", PATIENT, LABELS))
    seen = over(core, "one")
    assert (armed.struck, seen.status.phase, seen.status.reason) == (["one"], "Failed", reason)
    assert said in seen.status.message
    assert condition(seen, "DisruptionTarget") == ("True", "TerminationByKubelet")
    assert ended(seen) == ("Error", 143)
    assert api.log("one") == "ready\nsaved\n", "it had its grace"


@pytest.mark.parametrize(("fault", "reason"), [(faults.preempt, "PreemptionByScheduler"), (faults.drain, "EvictionByEvictionAPI")])
def test_a_pod_is_deleted_to_make_room(api: KubernetesApi, core: Core, fault: Any, reason: str) -> None:
    ready(core, "one")
    api.strike(fault, "one")
    gone(core, "one")
    seen = api.pod("one")
    assert "deletionTimestamp" in seen["metadata"]
    assert ("DisruptionTarget", reason) in [(one["type"], one.get("reason")) for one in seen["status"]["conditions"]]
    assert (seen["status"]["phase"], api.log("one")) == ("Failed", "ready\nsaved\n")


def test_eviction_by_the_public_api(api: KubernetesApi, core: Core) -> None:
    ready(core, "one")
    core.create_namespaced_pod_eviction("one", NAMESPACE, {"metadata": {"name": "one"}})
    gone(core, "one")
    assert api.log("one").endswith("saved\n")


def test_out_of_memory(api: KubernetesApi, core: Core) -> None:
    ready(core, "one")
    api.strike(faults.out_of_memory(), "one")
    seen = over(core, "one")
    assert (seen.status.phase, seen.status.reason, ended(seen)) == ("Failed", None, ("OOMKilled", 137))


def test_unschedulable_for_a_time(api: KubernetesApi, core: Core) -> None:
    api.arm(faults.unschedulable(seconds=1), step="train")
    core.create_namespaced_pod(NAMESPACE, pod("one", labels=LABELS))
    core.create_namespaced_pod(NAMESPACE, pod("other"))
    seen = until(core, "one", lambda pod: pod.status.conditions)
    assert condition(seen, "PodScheduled") == ("False", "Unschedulable")
    assert seen.status.conditions[0].message.startswith("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert [event["reason"] for event in api.events("one")] == ["FailedScheduling"]
    assert over(core, "one").status.phase == over(core, "other").status.phase == "Succeeded"


def test_a_queue_holds_a_pod_by_a_gate(api: KubernetesApi, core: Core) -> None:
    api.arm(faults.queue(), step="train")
    core.create_namespaced_pod(NAMESPACE, pod("one", labels=LABELS))
    seen = until(core, "one", lambda pod: pod.status.conditions)
    assert condition(seen, "PodScheduled") == ("False", "SchedulingGated") and seen.spec.scheduling_gates[0].name == faults.GATE
    api.release("one")
    assert over(core, "one").status.phase == "Succeeded"


def test_an_image_that_cannot_be_pulled(api: KubernetesApi, core: Core) -> None:
    core.create_namespaced_pod(NAMESPACE, pod("one", container={"image": "registry.example/unknown:1"}))
    api.arm(faults.pull_error("toomanyrequests: rate limit"), step="train")
    core.create_namespaced_pod(NAMESPACE, pod("two", labels=LABELS))

    def waiting(name: str, reason: str) -> Any:
        def is_so(pod: Any) -> bool:
            return bool(pod.status.container_statuses) and pod.status.container_statuses[0].state.waiting.reason == reason

        return until(core, name, is_so).status.container_statuses[0].state.waiting

    for reason in ("ErrImagePull", "ImagePullBackOff"):
        assert "registry.example/unknown:1: not found" in waiting("one", reason).message
        assert "rate limit" in waiting("two", reason).message
    assert core.read_namespaced_pod("one", NAMESPACE).status.phase == "Pending"
    api.release("two")
    assert over(core, "two").status.phase == "Succeeded"


@pytest.mark.parametrize("at", ["running", "exiting", "finished"])
def test_a_pod_that_vanishes(api: KubernetesApi, core: Core, at: str) -> None:
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    armed = api.arm(faults.lose, step="train", at=at)
    core.create_namespaced_pod(NAMESPACE, pod("one", "import time; print('ran'); time.sleep(0.3)", LABELS))
    armed.wait()
    gone(core, "one")
    seen = list(watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=1))
    phases = {event["object"].status.phase for event in seen}
    assert seen[-1]["type"] == "DELETED" and ("Succeeded" in phases) is (at == "finished")
    assert (api.log("one") == "ran\n") is (at != "running")


def test_a_lost_node(api: KubernetesApi, core: Core) -> None:
    ready(core, "one")
    api.strike(faults.lose_node(gone_after=2), "one")
    seen = core.read_namespaced_pod("one", NAMESPACE)
    assert (seen.status.phase, seen.status.reason, condition(seen, "Ready")) == ("Running", "NodeLost", ("False", "NodeNotReady"))
    assert seen.metadata.deletion_timestamp and seen.status.container_statuses[0].state.running
    with pytest.raises(client.ApiException, match="i/o timeout"):
        core.read_namespaced_pod_log("one", NAMESPACE)
    time.sleep(0.5)
    assert core.read_namespaced_pod("one", NAMESPACE).status.phase == "Running", "nobody there confirms its end"
    gone(core, "one")


def test_faults_wait_for_their_pods_and_are_used_up(api: KubernetesApi, core: Core) -> None:
    first = api.arm(faults.out_of_memory(), step="train", after=0.2)
    started(core, "one")
    started(core, "two")
    assert ended(over(core, "one")) == ("OOMKilled", 137)
    assert first.struck == ["one"]
    time.sleep(0.4)
    assert core.read_namespaced_pod("two", NAMESPACE).status.phase == "Running"
    late = api.arm(faults.evict(grace=0), step="train", log="ready")
    assert late.wait() == "two" and ended(over(core, "two")) == ("Error", 137)


def test_a_log_is_cut_and_goes_on_afterwards(api: KubernetesApi, core: Core) -> None:
    started(core, "one", "import time\nfor n in range(4): print(n, flush=True); time.sleep(0.5)")
    response = core.read_namespaced_pod_log("one", NAMESPACE, follow=True, _preload_content=False)
    threading.Timer(0.7, api.drop_logs).start()
    with pytest.raises(HTTPError):
        list(response.stream())
    assert core.read_namespaced_pod("one", NAMESPACE).status.phase == "Running"
    again = core.read_namespaced_pod_log("one", NAMESPACE, follow=True, _preload_content=False)
    assert b"".join(again.stream()) == b"0\n1\n2\n3\n"


def test_a_watch_is_cut_and_goes_on_where_it_was(api: KubernetesApi, core: Core) -> None:
    seen = watch.Watch()
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    threading.Timer(0.5, api.drop_watches).start()
    with pytest.raises(HTTPError):
        list(seen.stream(core.list_namespaced_pod, NAMESPACE, resource_version=version))
    core.create_namespaced_pod(NAMESPACE, pod("one"))
    over(core, "one")
    names = [
        event["object"].metadata.name
        for event in seen.stream(core.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=1)
    ]
    assert set(names) == {"one"}


def test_a_watch_from_a_forgotten_version_gets_410(api: KubernetesApi, core: Core) -> None:
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    api.forget_versions()
    with pytest.raises(client.ApiException) as caught:
        list(watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=2))
    assert caught.value.status == 410


def errors(core: Core, times: int) -> Iterator[tuple[int, str | None]]:
    for _ in range(times):
        try:
            core.list_namespaced_pod(NAMESPACE)
            yield 200, None
        except client.ApiException as refused:
            yield refused.status, refused.headers.get("Retry-After")


def test_requests_fail_as_told(api: KubernetesApi, core: Core) -> None:
    api.fail(503, times=2, method="GET", path="/pods")
    api.fail(429, retry_after=3)
    with pytest.raises(client.ApiException, match="429"):
        core.list_node()
    assert list(errors(core, 3)) == [(503, None), (503, None), (200, None)]
    api.fail(429, retry_after=3)
    assert list(errors(core, 2)) == [(429, "3"), (200, None)]
    api.expire_token()
    assert list(errors(core, 2)) == [(401, None), (200, None)]
    api.cut_calls()
    with pytest.raises(HTTPError):
        core.list_namespaced_pod(NAMESPACE)
    api.slow(0.5)
    begun = time.monotonic()
    assert list(errors(core, 1)) == [(200, None)] and time.monotonic() - begun > 0.5
    assert [seen.code for seen in api.requests] == [429, 503, 503, 200, 429, 200, 401, 200, 200]


def test_no_process_outlives_the_fake(api: KubernetesApi, core: Core) -> None:
    started(
        core,
        "one",
        "import os, subprocess, sys, time\nprint(subprocess.Popen(['sleep', '60']).pid, os.getpid(), flush=True)\ntime.sleep(60)",
    )
    until(core, "one", lambda _: api.log("one"))
    import psutil

    processes = [psutil.Process(int(pid)) for pid in api.log("one").split()]
    assert all(process.is_running() for process in processes)
    api.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
