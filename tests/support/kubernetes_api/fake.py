"""The whole fake as tests use it: where it is, what has happened in it, and its switches."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.call_faults import Failing
from tests.support.kubernetes_api.cluster import Cluster
from tests.support.kubernetes_api.faults import Armed, Fault
from tests.support.kubernetes_api.images import Image
from tests.support.kubernetes_api.life import PodLife
from tests.support.kubernetes_api.selectors import by_labels
from tests.support.kubernetes_api.server import Seen, Server

NAMESPACE = "loraflow"
SERVICE_ACCOUNT = "loraflow-step"


class KubernetesApi:
    """A running API server.

    Args:
        folder: for the kubeconfig and for volumes.
        port: to listen on; 0: a free one.
        kubeconfig: where to write it; without one, in the folder.

    Attributes:
        url: where it listens.
        kubeconfig: file with address and token.
        token: what clients have to show.
        cluster: nodes, images and objects, for tests that change them.
    """

    def __init__(self, folder: Path, port: int = 0, kubeconfig: Path | None = None) -> None:
        self.cluster = Cluster(folder)
        self.token = f"fake-{secrets.token_urlsafe(24)}"
        self._server = Server(self.cluster, self.token, port)
        self.url = self._server.url
        self.kubeconfig = kubeconfig or folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._config(), indent=1), encoding="utf-8")
        self.kubeconfig.chmod(0o600)
        self.cluster.add_namespace(NAMESPACE)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SERVICE_ACCOUNT, "namespace": NAMESPACE}}
        self.cluster.store.create("serviceaccounts", account)
        self._server.start()

    def _config(self) -> Object:
        context = {"cluster": "fake", "user": "tester", "namespace": NAMESPACE}
        return {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "fake"},
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {"token": self.token}}],
            "contexts": [{"name": "fake", "context": context}],
        }

    def close(self) -> None:
        """End every process, then the server."""
        self.cluster.close()
        self._server.stop()

    # What has happened

    @property
    def requests(self) -> list[Seen]:
        """Every request that has been answered, in order."""
        return list(self._server.requests)

    def pods(self, selector: str = "", **labels: str) -> list[Object]:
        """Every pod that there is or was, in the order of creation, as it was last seen.

        Args:
            selector: a label selector.
            labels: further labels that it has to have.
        """
        fits = by_labels(",".join(filter(None, [selector, *(f"{key}={value}" for key, value in labels.items())])))
        seen = [self.cluster.store.last_seen[uid] for uid in list(self.cluster.lives)]
        return [pod for pod in seen if fits(pod["metadata"].get("labels") or {})]

    def pod(self, name: str) -> Object:
        """The last pod of this name."""
        return next(pod for pod in reversed(self.pods()) if pod["metadata"]["name"] == name)

    def log(self, name: str, container: str = "") -> str:
        """What a pod has printed, even if its object is gone."""
        found = self._life(name).container(container)
        assert found, f"no container {container} in pod {name}"
        return found.log.text()

    def events(self, name: str) -> list[Object]:
        """Events about a pod, in order."""
        found = [thing for thing in list(self.cluster.store.last_seen.values()) if thing["kind"] == "Event"]
        return [event for event in found if event["involvedObject"]["name"] == name]

    def add_image(self, name: str, image: Image | None = None) -> None:
        """Let pods use an image; the name may be a pattern."""
        self.cluster.images[name] = image or Image()

    def add_claim(self, name: str, folder: Path) -> None:
        """Let a PersistentVolumeClaim show a folder; mounted under the folder's own path, it is seen there and here alike."""
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        meta = {"name": name, "namespace": NAMESPACE}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec, "status": {"phase": "Bound"}}
        self.cluster.claims[NAMESPACE, name] = folder
        self.cluster.store.create("persistentvolumeclaims", claim)

    # Faults of pods

    def strike(self, fault: Fault, name: str) -> None:
        """Let a fault happen to a pod now."""
        fault(self.cluster, self._life(name))

    def arm(
        self, fault: Fault, selector: str = "", *, log: str = "", after: float = 0.0, at: str = "", times: int = 1, **labels: str
    ) -> Armed:
        """Let a fault wait for the next pods that a selector finds.

        Args:
            fault: one of `faults`.
            selector: a label selector.
            log: strike when the pod prints a line with this text.
            after: strike so many seconds after `at`.
            at: created, scheduled, running, exiting, exit or finished. Default: running where there is an `after`, else created.
            times: how many pods it is for.
            labels: further labels of the pod.
        """
        wanted = ",".join(filter(None, [selector, *(f"{key}={value}" for key, value in labels.items())]))
        point = at or ("running" if after else "created")
        return self.cluster.faults.arm(Armed(fault, wanted, log, after, point, times))

    def release(self, name: str) -> None:
        """Let a pod start that `unschedulable`, `pull_error` or `queue` kept from it."""
        self.strike(faults.release, name)

    # Faults of requests

    def fail(self, status: int, times: int = 1, *, method: str = "", path: str = "", retry_after: int | None = None) -> None:
        """Answer the next requests with an error.

        Args:
            status: of HTTP.
            times: so many of them.
            method: only those of this method.
            path: only those whose path holds this text.
            retry_after: seconds in the header Retry-After.
        """
        self._server.faults.failing.append(Failing(status, times, method, path, retry_after))

    def cut_calls(self, times: int = 1) -> None:
        """Give the next requests no answer: the connection ends."""
        self._server.faults.cuts += times

    def slow(self, seconds: float) -> None:
        """Let every answer take so much longer."""
        self._server.faults.delay = seconds

    def linger(self, seconds: float) -> None:
        """Let every request be carried out at once, and answered so much later: who asked may die in between."""
        self._server.faults.linger = seconds

    def expire_token(self, times: int = 1) -> None:
        """Answer the next requests with 401."""
        self._server.faults.expired += times

    def forbid(self, verb: str, resource: str) -> None:
        """Take a right from the client: 403, and no in an access review. `*` stands for any."""
        self._server.faults.refused.append((verb, resource))

    def grant(self, rules: list[Object]) -> None:
        """Let the client have the rights that a Role's rules give, and no others."""
        self._server.faults.rules = rules

    def drop_watches(self) -> None:
        """Cut every watch that is open."""
        self._server.cut("watch")

    def drop_logs(self) -> None:
        """Cut every log that is being followed."""
        self._server.cut("log")

    def forget_versions(self) -> None:
        """Let every resource version that clients know be too old: their watches get 410."""
        self.cluster.store.forget()

    def recover(self) -> None:
        """Switch every fault off that has not happened yet."""
        self.cluster.faults.clear()
        calls = self._server.faults
        calls.delay, calls.linger, calls.expired, calls.cuts = 0.0, 0.0, 0, 0
        calls.failing.clear()
        calls.refused.clear()
        calls.rules = None

    def _life(self, name: str) -> PodLife:
        found = [life for life in list(self.cluster.lives.values()) if life.pod_name == name]
        assert found, f"there was never a pod {name}; there were {[life.pod_name for life in self.cluster.lives.values()]}"
        return found[-1]


@contextmanager
def serve(folder: Path, port: int = 0, kubeconfig: Path | None = None) -> Iterator[KubernetesApi]:
    """An API server until the block ends; what it kept in its folder is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    api = KubernetesApi(folder, port, kubeconfig)
    try:
        yield api
    finally:
        api.close()
        shutil.rmtree(folder, ignore_errors=True)
