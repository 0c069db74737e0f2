"""What goes wrong with requests and streams, as the small Kubernetes API shows it to real clients."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config, watch
from urllib3.exceptions import HTTPError

from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.kubernetes_api.fixture import AnyCluster
from tests.support.kubernetes_api.manifests import pod
from tests.support.processes import until

pytestmark = pytest.mark.guards(
    "tests/support/kubernetes_api", "tests/support/http_server.py", "tasks/process/child.py", "requirements.lock"
)


@pytest.fixture
def cluster(any_cluster: AnyCluster) -> AnyCluster:
    settings = client.Configuration()
    config.load_kube_config(str(any_cluster.kubeconfig), client_configuration=settings)
    settings.retries = False  # each answer is seen as it comes
    return dataclasses.replace(any_cluster, core=client.CoreV1Api(client.ApiClient(settings)))


def test_a_log_is_cut_and_goes_on_afterwards(kubernetes_api: KubernetesApi, cluster: AnyCluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    cluster.create(pod("one", f"import os, time\nprint(1)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint(2)"))
    cluster.printed("one", "1")
    response = cluster.core.read_namespaced_pod_log("one", cluster.namespace, follow=True, _preload_content=False)
    kubernetes_api.drop_logs()
    with pytest.raises(HTTPError):
        list(response.stream())
    assert cluster.read("one").status.phase == "Running"
    again = cluster.core.read_namespaced_pod_log("one", cluster.namespace, follow=True, _preload_content=False)
    go.touch()
    assert b"".join(again.stream()) == b"1\n2\n"


def test_a_watch_is_cut_and_goes_on_where_it_was(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    version = cluster.version

    def drop() -> None:
        until(lambda: [seen for seen in kubernetes_api.requests if seen.query.get("watch")])
        kubernetes_api.drop_watches()

    threading.Thread(target=drop).start()
    with pytest.raises(HTTPError):
        list(watch.Watch().stream(cluster.core.list_namespaced_pod, cluster.namespace, resource_version=version))
    cluster.create(pod("one"))
    cluster.finished("one")
    assert {event["object"].metadata.name for event in cluster.watch(version)} == {"one"}


def test_a_watch_from_a_forgotten_version_gets_410(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    version = cluster.version
    kubernetes_api.forget_versions()
    with pytest.raises(client.ApiException) as caught:
        cluster.watch(version)
    assert caught.value.status == 410


def errors(cluster: AnyCluster, times: int) -> Iterator[tuple[int, str | None]]:
    for _ in range(times):
        try:
            cluster.core.list_namespaced_pod(cluster.namespace)
            yield 200, None
        except client.ApiException as refused:
            yield refused.status, refused.headers.get("Retry-After")


def test_requests_fail_as_told(kubernetes_api: KubernetesApi, cluster: AnyCluster) -> None:
    kubernetes_api.fail(503, times=2, method="GET", path="/pods")
    kubernetes_api.fail(429, retry_after=3)
    with pytest.raises(client.ApiException, match="429"):
        cluster.core.list_node()
    assert list(errors(cluster, 3)) == [(503, None), (503, None), (200, None)]
    kubernetes_api.fail(429, retry_after=3)
    assert list(errors(cluster, 2)) == [(429, "3"), (200, None)]
    kubernetes_api.expire_token()
    assert list(errors(cluster, 2)) == [(401, None), (200, None)]
    kubernetes_api.cut_calls()
    with pytest.raises(HTTPError):
        cluster.core.list_namespaced_pod(cluster.namespace)
    kubernetes_api.slow(0.5)
    begun = time.monotonic()
    assert list(errors(cluster, 1)) == [(200, None)] and time.monotonic() - begun > 0.5
    assert [seen.code for seen in kubernetes_api.requests] == [429, 503, 503, 200, 429, 200, 401, 200, 200]
