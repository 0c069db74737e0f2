"""The small Kubernetes API under unlucky timing: each test holds open the window in which something was once lost."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import HTTPError

from tests.support.kubernetes_api import cluster as cluster_module
from tests.support.kubernetes_api.container import Container, Plan
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.support.kubernetes_api.fixture import AnyCluster
from tests.support.kubernetes_api.life import PodLife
from tests.support.kubernetes_api.log import Log
from tests.support.kubernetes_api.manifests import PATIENT, pod
from tests.support.kubernetes_api.server import Handler
from tests.support.processes import until

pytestmark = pytest.mark.guards(
    "tests/support/kubernetes_api", "tests/support/http_server.py", "tasks/process/child.py", "requirements.lock"
)


def test_no_pod_is_seen_without_its_life(kubernetes_api: KubernetesApi, any_cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, found = kubernetes_api.cluster, []

    def look() -> None:
        found.extend((one["metadata"]["name"], one["metadata"]["uid"] in cluster.lives) for one in cluster.store.all("pods")[0])

    class Slow(PodLife):
        def __init__(self, *args: Any) -> None:
            looks.start()
            looks.join(0.5)  # it must not come to an end before the life is there
            super().__init__(*args)

    looks = threading.Thread(target=look)
    monkeypatch.setattr(cluster_module, "PodLife", Slow)
    any_cluster.create(pod("one"))
    looks.join()
    assert found == [("one", True)]


def test_a_pod_that_is_gone_does_not_heed_another_of_its_name(kubernetes_api: KubernetesApi, any_cluster: AnyCluster) -> None:
    cluster = kubernetes_api.cluster
    any_cluster.create(pod("one", schedulingGates=[{"name": "example.com/first"}]))
    (life,) = cluster.lives.values()
    cluster.store.remove("pods", NAMESPACE, "one")
    assert cluster.now(life)["metadata"]["uid"] == life.uid
    any_cluster.create(pod("one", schedulingGates=[{"name": "example.com/second"}]))
    assert cluster.now(life)["spec"]["schedulingGates"] == [{"name": "example.com/first"}]


def test_a_container_that_ends_at_once_has_been_started(
    kubernetes_api: KubernetesApi, any_cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Container.start

    def start_and_end(self: Container, plan: Plan) -> None:
        start(self, plan)
        self.join()

    monkeypatch.setattr(Container, "start", start_and_end)
    any_cluster.run(pod("one"))
    any_cluster.run(pod("two", container={"command": ["no-such-command"]}))
    events = {name: [event["reason"] for event in kubernetes_api.events(name)] for name in ("one", "two")}
    assert ["Started" in reasons for reasons in events.values()] == [True, False]


def test_a_log_is_closed_before_its_container_is_seen_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the end may restart the container, and its new log must not be closed in the place of the old one."""
    close, done = Log.close, []

    def note(self: Log) -> None:
        done.append(container.done)
        close(self)

    monkeypatch.setattr(Log, "close", note)
    spec = {"name": "base", "image": "", "terminationMessagePolicy": "File"}
    container = Container(spec, told=lambda _: None, changed=lambda: None, ending=lambda: None)
    container.start(Plan(["true"], dict(os.environ), tmp_path, tmp_path / "message"))
    container.join()
    assert container.done and done == [False]


@pytest.mark.parametrize("knows", ["from the list of requests", "from the answer's head"])
def test_a_stream_that_is_cut_at_its_very_beginning_is_cut(
    knows: str, kubernetes_api: KubernetesApi, any_cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "_note" if knows == "from the list of requests" else "end_headers"
    original = getattr(Handler, name)

    def cut(self: Handler, *args: Any) -> None:
        original(self, *args)
        if "follow=True" in self.path:
            kubernetes_api.drop_logs()

    monkeypatch.setattr(Handler, name, cut)
    any_cluster.create(pod("one", PATIENT))
    any_cluster.printed("one", "ready")
    with pytest.raises(HTTPError):
        any_cluster.log("one", follow=True)


def test_a_fault_that_still_strikes_is_waited_for(kubernetes_api: KubernetesApi, any_cluster: AnyCluster) -> None:
    go = threading.Event()
    armed = kubernetes_api.arm(lambda *_: go.wait(60) and None, at="running")
    any_cluster.create(pod("one"))
    until(lambda: armed.struck)
    with pytest.raises(AssertionError, match="no pod was struck"):
        armed.wait(0.2)
    go.set()
    assert armed.wait() == "one"
