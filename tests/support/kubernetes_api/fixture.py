"""The fixtures `kubernetes_api` and `any_cluster`, which tests/conftest.py hands to every test.

What needs a switch of the fake asks for `kubernetes_api`. What needs nothing but a cluster asks for `any_cluster`: with
LORAFLOW_TEST_KUBECONFIG set to a kubeconfig's path it runs on that cluster, in a namespace of its own, else on the fake.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

    from tests.support.kubernetes_api.fake import KubernetesApi

REAL = os.environ.get("LORAFLOW_TEST_KUBECONFIG")
WAIT_SECONDS = 180.0 if REAL else 120.0
"""Longest wait for a pod: on a real cluster an image may have to be pulled."""


@dataclass(frozen=True)
class AnyCluster:
    """A cluster that tests may use.

    Attributes:
        kubeconfig: how to reach it.
        namespace: where the test's pods are.
        core: a client.
    """

    kubeconfig: Path
    namespace: str
    core: "CoreV1Api"

    def create(self, manifest: dict[str, Any]) -> Any:
        """Create a pod."""
        return self.core.create_namespaced_pod(self.namespace, manifest)

    def read(self, name: str) -> Any:
        """The pod as it is now."""
        return self.core.read_namespaced_pod(name, self.namespace)

    def log(self, name: str, **query: Any) -> str:
        """A pod's log; decoded here, since kubernetes 36 makes the text of a bytes literal of it."""
        return str(self.core.read_namespaced_pod_log(name, self.namespace, _preload_content=False, **query).data.decode())

    def watch(self, version: str, **query: Any) -> list[dict[str, Any]]:
        """What a watch from a version on tells of pods within a second."""
        from kubernetes.watch import Watch

        listed = self.core.list_namespaced_pod
        return list(Watch().stream(listed, self.namespace, resource_version=version, **{"timeout_seconds": 1, **query}))

    @property
    def version(self) -> str:
        """The version that the pods have now."""
        return str(self.core.list_namespaced_pod(self.namespace).metadata.resource_version)

    def until(self, name: str, wanted: Callable[[Any], object]) -> Any:
        """Wait until a pod is as it should be."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not wanted(seen := self.read(name)):
            assert time.monotonic() < deadline, seen.status
            time.sleep(1.0 if REAL else 0.05)
        return seen

    def finished(self, name: str) -> Any:
        """Wait for a pod's end."""
        return self.until(name, lambda pod: pod.status.phase in ("Succeeded", "Failed"))

    def printed(self, name: str, text: str) -> Any:
        """Wait until a pod has printed something; a short one may be over by then."""
        return self.until(name, lambda pod: pod.status.phase != "Pending" and text in self.log(name))

    def start(self, manifest: dict[str, Any]) -> Any:
        """Create a pod and wait until it runs."""
        self.create(manifest)
        return self.until(manifest["metadata"]["name"], lambda pod: pod.status.phase == "Running")

    def run(self, manifest: dict[str, Any]) -> Any:
        """Create a pod and wait for its end."""
        self.create(manifest)
        return self.finished(manifest["metadata"]["name"])

    def gone(self, name: str) -> None:
        """Wait until there is no such pod any more."""
        deadline = time.monotonic() + WAIT_SECONDS
        while any(pod.metadata.name == name for pod in self.core.list_namespaced_pod(self.namespace).items):
            assert time.monotonic() < deadline, f"{name} is still there"
            time.sleep(0.1)


def ended(pod: Any) -> tuple[str, int]:
    """Reason and exit code of the container of a pod that is over."""
    state = pod.status.container_statuses[0].state.terminated
    return state.reason, state.exit_code


def refused(call: Callable[[], object]) -> tuple[int, dict[str, Any]]:
    """Code and Status object of a call that is refused."""
    from kubernetes.client import ApiException

    with pytest.raises(ApiException) as caught:
        call()
    return caught.value.status, json.loads(caught.value.body)


@pytest.fixture
def kubernetes_api(tmp_path: Path) -> Iterator["KubernetesApi"]:
    """A small Kubernetes API server on loopback, with no pods; every process that it starts ends with the test."""
    if REAL:
        pytest.skip("needs a switch of the fake, and LORAFLOW_TEST_KUBECONFIG names a cluster")
    from tests.support.kubernetes_api.fake import serve  # most tests need none

    with serve(tmp_path / "kubernetes") as api:
        yield api


@pytest.fixture
def any_cluster(request: pytest.FixtureRequest) -> Iterator[AnyCluster]:
    """The cluster that LORAFLOW_TEST_KUBECONFIG names, else the fake."""
    from kubernetes import client, config

    if not REAL:
        from tests.support.kubernetes_api.fake import NAMESPACE

        kubeconfig = request.getfixturevalue("kubernetes_api").kubeconfig
        yield AnyCluster(kubeconfig, NAMESPACE, client.CoreV1Api(config.new_client_from_config(str(kubeconfig))))
        return
    core = client.CoreV1Api(config.new_client_from_config(REAL))
    name = f"loraflow-test-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "loraflow"}}})
    try:
        _await_account(core, name)
        yield AnyCluster(Path(REAL), name, core)
    finally:
        core.delete_namespace(name)


def _await_account(core: "CoreV1Api", namespace: str) -> None:
    """Pods are refused until a controller has given the namespace its service account."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not core.list_namespaced_service_account(namespace).items:
        assert time.monotonic() < deadline
        time.sleep(0.5)
