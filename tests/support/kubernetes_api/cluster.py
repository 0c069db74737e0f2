"""The cluster behind the API: its objects, its nodes, and the lives of its pods."""

import contextlib
import fnmatch
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.kubernetes_api import admission
from tests.support.kubernetes_api.answers import Object, Refusal, bad_request
from tests.support.kubernetes_api.defaults import complete
from tests.support.kubernetes_api.ending import Ending
from tests.support.kubernetes_api.faults import Faults
from tests.support.kubernetes_api.images import Image, known_images
from tests.support.kubernetes_api.life import PodLife
from tests.support.kubernetes_api.log import Log
from tests.support.kubernetes_api.store import Store, now

FORCED_GRACE = 1.0
"""What a kubelet gives a pod whose object has been deleted without grace."""


class Cluster:
    """Three nodes, one of them with GPUs, and whatever is created.

    Args:
        folder: for volumes; it may be removed afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store()
        self.images: dict[str, Image] = known_images()
        self.claims: dict[tuple[str, str], Path] = {}
        """Folders that stand for claims, where a test has said which."""
        self.lives: dict[str, PodLife] = {}
        """By uid, those that are over as well: their logs stay."""
        self.faults = Faults(self)
        self._numbers = iter(range(1, 10**9))
        self._guard = threading.Lock()
        for name, gpus in (("node-1", 0), ("node-2", 0), ("node-gpu", 8)):
            self.add_node(name, gpus)
        for name in ("default", "kube-system"):
            self.add_namespace(name)

    def add_node(self, name: str, gpus: int = 0, labels: dict[str, str] | None = None, taints: tuple[Object, ...] = ()) -> None:
        """One more machine."""
        amounts = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "110"} | (
            {"nvidia.com/gpu": str(gpus)} if gpus else {}
        )
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})}}
        status = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        spec = {"taints": list(taints)} if taints else {}
        self.store.create("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": status})

    def add_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        """A namespace, with the service account that each has."""
        meta = {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}}
        self.store.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "status": {"phase": "Active"}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        self.store.create("serviceaccounts", account)

    def claim(self, namespace: str, name: str) -> Path:
        """The folder behind a PersistentVolumeClaim."""
        return self.claims.get((namespace, name), self.folder / "claims" / namespace / name)

    def image(self, name: str) -> Image | None:
        """What an image holds; the table's names may be patterns."""
        exact = self.images.get(name)
        return exact or next((image for pattern, image in self.images.items() if fnmatch.fnmatchcase(name, pattern)), None)

    # Pods

    def create_pod(self, pod: Object, dry: bool = False) -> Object:
        """Admit a pod, keep it, and let it live."""
        complete(pod)
        with self._guard:
            admission.admit(self.store, pod)
            if dry:
                return pod
            with self.store.changed:  # nobody sees a pod that has no life yet
                kept = self.store.create("pods", pod)
                life = self.lives[kept["metadata"]["uid"]] = PodLife(self, kept)
        self.faults.reached(life, "created")
        life.start()
        return kept

    def delete_pod(self, namespace: str, name: str, grace: float | None = None, condition: Object | None = None) -> Object:
        """Take a pod away: at once where nothing of it runs, else when it has ended."""
        pod = self.store.get("pods", namespace, name)
        life = self.life_of(pod)
        grace = pod["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] in ("Succeeded", "Failed"):
            grace = 0

        def mark(thing: Object) -> None:
            meta = thing["metadata"]
            grace_now = min(grace, meta.get("deletionGracePeriodSeconds", grace))
            meta["deletionTimestamp"] = _in(grace_now) if "deletionTimestamp" not in meta else meta["deletionTimestamp"]
            meta["deletionGracePeriodSeconds"] = int(grace_now)

        pod = self.store.update("pods", namespace, name, mark)
        if grace > 0:
            if not life.cut_off:
                life.end(Ending(grace, condition=condition, remove=True))
            return pod
        if not life.cut_off:
            life.end(Ending(FORCED_GRACE if life.node else 0, condition=condition, remove=True))
        self.drop(life)
        return pod

    def evict_pod(self, namespace: str, name: str, grace: float | None = None) -> None:
        """Take a pod away as the eviction API does."""
        self.delete_pod(namespace, name, grace, {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"})

    def drop(self, life: PodLife) -> None:
        """Remove a pod's object, unless a finalizer still holds it."""
        with contextlib.suppress(Refusal):
            pod = self.store.get("pods", life.namespace, life.pod_name)
            if not pod["metadata"].get("finalizers"):
                self.store.remove("pods", life.namespace, life.pod_name, life.uid)

    def life_of(self, pod: Object) -> PodLife:
        """The life of a pod."""
        return self.lives[pod["metadata"]["uid"]]

    def now(self, life: PodLife) -> Object:
        """A pod as the API has it. If it is gone, as it last was, even if another pod has its name now."""
        with contextlib.suppress(Refusal):
            pod = self.store.get("pods", life.namespace, life.pod_name)
            if pod["metadata"]["uid"] == life.uid:
                return pod
        return life.pod

    def log_of(self, pod: Object, container: str, previous: bool = False) -> Log:
        """What a container has printed."""
        life = self.life_of(pod)
        if life.cut_off:
            address = f"https://{pod['status']['hostIP']}:10250/containerLogs/{life.namespace}/{life.pod_name}/{container}"
            raise Refusal(500, "InternalError", f'Get "{address}": dial tcp {pod["status"]["hostIP"]}:10250: i/o timeout')
        found = life.container(container)
        assert found
        if previous and not found.restarts:
            raise bad_request(f'previous terminated container "{container}" in pod "{life.pod_name}" not found')
        return found.last_log if previous else found.log

    # What lives tell

    def event(self, pod: Object, kind: str, reason: str, message: str, part: str = "", source: str = "kubelet") -> None:
        """Keep an Event about a pod."""
        meta = pod["metadata"]
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        about["resourceVersion"] = meta["resourceVersion"]
        thing = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{next(self._numbers):x}", "namespace": meta["namespace"]},
            "involvedObject": about | ({"fieldPath": part} if part else {}),
            **{"type": kind, "reason": reason, "message": message, "count": 1, "firstTimestamp": now(), "lastTimestamp": now()},
            **{"source": {"component": source}, "reportingComponent": source, "reportingInstance": ""},
        }
        self.store.create("events", thing)

    def reached(self, life: PodLife, point: str) -> None:
        """A pod has come to a point of its life that a fault may wait for."""
        self.faults.reached(life, point)

    def printed(self, life: PodLife, line: str) -> None:
        """A pod has printed a line."""
        self.faults.printed(life, line)

    def close(self) -> None:
        """End every pod, and wait until no process is left."""
        self.faults.close()
        for life in list(self.lives.values()):
            life.end(Ending(0))
        for life in list(self.lives.values()):
            life.join()


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
