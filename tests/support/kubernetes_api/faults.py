"""What goes wrong with pods in clusters, as switches: at once on a pod, or armed for pods to come.

A fault is a function of the cluster and a pod's life. Those that take a value are made by a call: `unschedulable("…")`.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.kubernetes_api.answers import Object, Refusal
from tests.support.kubernetes_api.ending import Ending
from tests.support.kubernetes_api.life import PodLife
from tests.support.kubernetes_api.selectors import by_labels

if TYPE_CHECKING:
    from tests.support.kubernetes_api.cluster import Cluster

Fault = Callable[["Cluster", PodLife], None]

HELD_SECONDS = 0.5
"""How long a pod that a fault strikes at a line stands still, for the fault to come to it there."""

NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption victims."
LOW = "The node was low on resource: {resource}. Threshold quantity: 100Mi, available: 52Mi. "
LOW += "Container {container} was using 3Gi, request is 0, has larger consumption of {resource}. "
GATE = "kueue.x-k8s.io/admission"
NO_MANIFEST = "rpc error: code = NotFound desc = failed to pull and unpack image: failed to resolve reference: not found"


def _end_by_kubelet(life: PodLife, reason: str, message: str, grace: float | None = None) -> None:
    """The pod ends within its grace, or the given one, and stays as Failed with that reason."""
    grace = float(life.pod["spec"]["terminationGracePeriodSeconds"]) if grace is None else grace
    life.end(Ending(grace, {"reason": reason, "message": message}, {"reason": "TerminationByKubelet", "message": message}))


def _for_a_time(seconds: float | None, hold: Fault) -> Fault:
    """What keeps a pod from starting, and lets it go after so many seconds, if any are given."""

    def strike(cluster: "Cluster", life: PodLife) -> None:
        hold(cluster, life)
        if seconds is not None:
            cluster.faults.later(seconds, lambda: release(cluster, life))

    return strike


def evict(resource: str = "memory", grace: float | None = None) -> Fault:
    """The node runs short of a resource and its kubelet evicts the pod, which stays as Failed, reason Evicted."""

    def strike(cluster: "Cluster", life: PodLife) -> None:
        message = LOW.format(resource=resource, container=life.containers[0].name)
        cluster.event(life.pod, "Warning", "Evicted", message)
        _end_by_kubelet(life, "Evicted", message, grace)

    return strike


def preempt(cluster: "Cluster", life: PodLife) -> None:
    """A pod of higher priority takes its place: the scheduler deletes it, after its grace it is gone."""
    message = "default-scheduler: preempting to accommodate a higher priority pod"
    cluster.event(life.pod, "Normal", "Preempted", "Preempted by pod 11111111-2222 on node " + life.node, source="default-scheduler")
    cluster.delete_pod(life.namespace, life.pod_name, condition={"reason": "PreemptionByScheduler", "message": message})


def preempt_for_system(cluster: "Cluster", life: PodLife) -> None:
    """The kubelet makes room for a critical pod: this one stays as Failed, reason Preempted."""
    message = "Preempted in order to admit critical pod"
    cluster.event(life.pod, "Warning", "Preempting", message)
    _end_by_kubelet(life, "Preempted", message)


def drain(cluster: "Cluster", life: PodLife) -> None:
    """Somebody drains the node: the pod is deleted by the eviction API."""
    cluster.evict_pod(life.namespace, life.pod_name)


def shut_down_node(cluster: "Cluster", life: PodLife) -> None:
    """A spot machine is taken back: the pod stays as Failed, reason Terminated."""
    _end_by_kubelet(life, "Terminated", "Pod was terminated in response to imminent node shutdown.")


def out_of_memory(container: str = "") -> Fault:
    """The kernel kills a container that went over its limit: exit code 137, reason OOMKilled."""

    def strike(cluster: "Cluster", life: PodLife) -> None:
        found = life.container(container)
        assert found, f"no container {container} in pod {life.pod_name}"
        found.kill(out_of_memory=True)

    return strike


def unschedulable(message: str = NO_GPU, seconds: float | None = None) -> Fault:
    """No node takes the pod (for a time, until one more node is there)."""

    def hold(_: "Cluster", life: PodLife) -> None:
        life.unschedulable = message

    return _for_a_time(seconds, hold)


def pull_error(message: str = NO_MANIFEST, seconds: float | None = None) -> Fault:
    """The image cannot be pulled: ErrImagePull and ImagePullBackOff by turns (for a time)."""

    def hold(_: "Cluster", life: PodLife) -> None:
        life.pull_error = message

    return _for_a_time(seconds, hold)


def queue(_: "Cluster", life: PodLife) -> None:
    """Kueue holds the pod in its queue by a scheduling gate, until it is released: its quota admits it."""
    blocked = {"reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}
    life.conditions.set("PodScheduled", "False", **blocked)
    life.publish(spec={"schedulingGates": [{"name": GATE}]})


def release(cluster: "Cluster", life: PodLife) -> None:
    """What kept the pod from starting is over."""
    life.unschedulable = life.pull_error = ""
    if life.pod["spec"].get("schedulingGates"):
        life.publish(spec={"schedulingGates": []})
    life.nudge()


def lose(cluster: "Cluster", life: PodLife) -> None:
    """The object is gone, as after a forced deletion or garbage collection; what runs is killed."""
    with contextlib.suppress(Refusal):
        cluster.store.remove("pods", life.namespace, life.pod_name, life.uid)
    life.end(Ending(0))


def lose_node(gone_after: float | None = None, runs_on: bool = False) -> Fault:
    """The pod's machine dies: its last status stays, it is told to be deleted, and nobody there confirms it.

    Args:
        gone_after: seconds until garbage collection removes the object; without it, it stays until a forced deletion.
        runs_on: whether only the network to it is gone, so that its process goes on unseen.
    """

    def strike(cluster: "Cluster", life: PodLife) -> None:
        life.conditions.set("Ready", "False", "NodeNotReady", "Node is not ready")
        condition = {"reason": "DeletionByTaintManager", "message": "Taint manager: deleting due to NoExecute taint"}
        life.conditions.set("DisruptionTarget", "True", **condition)
        told = f"Node {life.node} which was running pod {life.pod_name} is unresponsive"
        life.publish(reason="NodeLost", message=told)
        life.cut_off = True
        cluster.event(life.pod, "Warning", "NodeNotReady", "Node is not ready", source="node-controller")
        if not runs_on:
            life.end(Ending(0))
        with contextlib.suppress(Refusal):
            cluster.delete_pod(life.namespace, life.pod_name)
        if gone_after is not None:
            cluster.faults.later(gone_after, lambda: cluster.drop(life))

    return strike


@dataclass
class Armed:
    """A fault that waits for its pods.

    Attributes:
        fault: what happens.
        selector: the pods that it is for, by their labels.
        log: strike when a pod prints a line that holds this text.
        after: strike so many seconds after a pod has come to `at`.
        at: strike when a pod is created, scheduled, running, exiting (its process has ended, and nobody knows yet), or finished.
        times: how many pods it is for.
    """

    fault: Fault
    selector: str = ""
    log: str = ""
    after: float = 0.0
    at: str = "created"
    times: int = 1
    struck: list[str] = field(default_factory=list)
    """Names of the pods that it has struck."""
    _uids: set[str] = field(default_factory=set)
    """Those pods; ones that follow each other may share a name."""
    _done: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def strike(self, cluster: "Cluster", life: PodLife) -> None:
        """Let it happen, and tell whoever waits for that."""
        self.fault(cluster, life)
        with self._changed:
            self._done += 1
            self._changed.notify_all()

    def takes(self, life: PodLife) -> bool:
        """Whether this pod is the one, and the fault not used up; from then on it is used for it."""
        labels: Object = life.pod["metadata"].get("labels", {})
        with self._changed:
            if len(self.struck) >= self.times or life.uid in self._uids or not by_labels(self.selector)(labels):
                return False
            self._uids.add(life.uid)
            self.struck.append(life.pod_name)
            return True

    def wait(self, seconds: float = 60.0) -> str:
        """Wait until it has struck; returns the name of the pod that it struck last."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._done, seconds), f"no pod was struck within {seconds} s"
            return self.struck[-1]


class Faults:
    """The faults that are armed."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._armed: list[Armed] = []
        self._timers: list[threading.Timer] = []

    def arm(self, armed: Armed) -> Armed:
        """Let a fault wait for its pods, those that are there already included."""
        self._armed.append(armed)
        for life in list(self._cluster.lives.values()):
            for one in [*life.containers, *life.init]:
                if armed.log and armed.log in one.log.text() and one.running and armed.takes(life):
                    armed.strike(self._cluster, life)
        return armed

    def clear(self) -> None:
        """Take all of them back."""
        self._armed.clear()

    def reached(self, life: PodLife, point: str) -> None:
        """A pod is at a point of its life."""
        for armed in list(self._armed):
            if armed.at == point and not armed.log and armed.takes(life):
                if armed.after:
                    self.later(armed.after, lambda armed=armed: armed.strike(self._cluster, life))  # type: ignore[misc]
                else:
                    armed.strike(self._cluster, life)

    def printed(self, life: PodLife, line: str) -> None:
        """A pod has printed a line."""
        for armed in list(self._armed):
            if armed.log and armed.log in line and armed.takes(life):
                life.hold(True)  # a step that prints the line as one of its last would be done before the fault's signal came
                armed.strike(self._cluster, life)
                self.later(HELD_SECONDS, lambda: life.hold(False))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a time."""
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def close(self) -> None:
        """Nothing strikes any more."""
        self._armed.clear()
        for timer in self._timers:
            timer.cancel()
