"""A pod's life, from Pending to its end: what scheduler, kubelet and controllers do to it, each step visible in its status."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.kubernetes_api import environment, scheduler
from tests.support.kubernetes_api.answers import Object, Refusal
from tests.support.kubernetes_api.container import Container
from tests.support.kubernetes_api.ending import Ending
from tests.support.kubernetes_api.pod_status import Conditions, pod_status
from tests.support.kubernetes_api.pulling import pull
from tests.support.kubernetes_api.store import now
from tests.support.kubernetes_api.volumes import NotReadyError, Volumes

if TYPE_CHECKING:
    from tests.support.kubernetes_api.cluster import Cluster

SCHEDULING_SECONDS = 0.05
RETRY_SECONDS = 0.5
"""Between two looks at something that a pod waits for, and before a container's next run."""
LATE = "Pod was active on the node longer than the specified deadline"


class _Ended(Exception):
    """The pod has been told to end."""


class PodLife:
    """The life of one pod, in a thread of its own."""

    def __init__(self, cluster: "Cluster", pod: Object) -> None:
        meta = pod["metadata"]
        self.cluster, self.pod = cluster, pod
        self.namespace, self.pod_name, self.uid = meta["namespace"], meta["name"], meta["uid"]
        self.conditions = Conditions(pod["status"].get("conditions", ()))
        folder = cluster.folder / "pods" / self.uid
        self.volumes = Volumes(folder, lambda name: cluster.claim(self.namespace, name), pod, self.look)
        first = not pod["spec"].get("shareProcessNamespace")
        told = (self._printed, self._changed, self._exiting, first)
        self.init = [Container(spec, *told) for spec in pod["spec"].get("initContainers") or ()]
        self.containers = [Container(spec, *told) for spec in pod["spec"]["containers"]]
        self.node = ""
        self.unschedulable = ""
        """Why no node takes it, as a fault has it."""
        self.pull_error = ""
        """Why its image cannot be pulled, likewise."""
        self.cut_off = False
        """Whether its node has been lost: nothing that happens to it is seen any more."""
        self._ending: Ending | None = None
        self._over = False
        self._started = 0.0
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._live, name=f"pod {self.pod_name}", daemon=True)

    def start(self) -> None:
        """Begin to live."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all of it is over."""
        if self._thread.is_alive():
            self._thread.join()

    def _live(self) -> None:
        try:
            self._find_node()
            self._prepare()
            for container in self.init:
                self._run([container])
                if container.exit_code:
                    break
            else:
                self._run(self.containers)
        except _Ended:
            self._end_containers()
        finally:
            self._settle()

    # What others tell it

    def end(self, ending: Ending) -> None:
        """Bring it to its end; a second word can only hurry it, or have the object removed too."""
        with self._turn:
            if self._over and ending.remove:
                return self.cluster.drop(self)  # it ended of itself just before
            if self._ending is None:
                self._ending = ending
            else:
                self._ending.begun, self._ending.grace = time.monotonic(), min(self._ending.left, ending.grace)
                self._ending.remove |= ending.remove
                self._ending.status = self._ending.status or ending.status
            self._turn.notify_all()
        if ending.condition:
            self.conditions.set("DisruptionTarget", "True", **ending.condition)
            self.publish()

    def hold(self, held: bool) -> None:
        """Let its processes stand still, or go on."""
        for container in self.containers:
            container.hold(held)

    def nudge(self) -> None:
        """Look again at what it waits for."""
        with self._turn:
            self._turn.notify_all()

    def container(self, name: str = "") -> Container | None:
        """The container of this name, or the first."""
        return next((one for one in [*self.containers, *self.init] if name in ("", one.name)), None)

    def look(self, plural: str, name: str) -> Object:
        """An object of the pod's namespace."""
        return self.cluster.store.get(plural, self.namespace, name)

    # Its steps

    def _find_node(self) -> None:
        self.pause(SCHEDULING_SECONDS)
        told = ""
        while not (self.node and not self.unschedulable):
            pod = self.cluster.now(self)
            if pod["spec"].get("schedulingGates"):
                self.pause(RETRY_SECONDS)
                continue
            self.node, why = ("", self.unschedulable) if self.unschedulable else scheduler.place(self.cluster, pod)
            if self.node:
                break
            if why != told:
                self.conditions.set("PodScheduled", "False", "Unschedulable", why)
                self.publish()
                self.event("Warning", "FailedScheduling", why, source="default-scheduler")
                told = why
            self.pause(RETRY_SECONDS)
        self.conditions.set("PodScheduled", "True")
        self.publish(spec={"nodeName": self.node})
        name = f"{self.namespace}/{self.pod_name}"
        self.event("Normal", "Scheduled", f"Successfully assigned {name} to {self.node}", source="default-scheduler")
        self.cluster.reached(self, "scheduled")

    def _prepare(self) -> None:
        """Volumes and images."""
        self._started = time.monotonic()
        for container in [*self.init, *self.containers]:
            if self.init and container in self.containers:
                container.wait_for("PodInitializing")
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"):
            self.conditions.set(kind, "False", *(("ContainersNotReady", "containers with unready status") if "eady" in kind else ()))
        self.publish(startTime=now(), hostIP=f"10.0.0.{1 + sum(self.node.encode()) % 250}")
        self._until(self.volumes.make, lambda error: self.event("Warning", "FailedMount", str(error)))

    def _run(self, containers: list[Container]) -> None:
        """Start containers, and wait until all of them are done for good."""
        for container in containers:
            self._start(container)
        self.conditions.set("PodReadyToStartContainers", "True")
        if containers is self.containers:
            for kind in ("Initialized", "Ready", "ContainersReady"):
                self.conditions.set(kind, "True")
        self.publish(podIP=f"10.244.0.{1 + int(self.uid[:4], 16) % 250}")
        self.cluster.reached(self, "running")
        while True:
            self._wait(lambda: any(map(self._again, containers)) or all(one.done for one in containers))
            if not any(map(self._again, containers)):
                return
            for container in filter(self._again, containers):
                container.back_off()
                self.publish()
                self.pause(RETRY_SECONDS)
                self._start(container)
            self.publish()

    def _again(self, container: Container) -> bool:
        """Whether the restart policy wants a container that is done to run once more."""
        if not container.done or self.pod["spec"]["restartPolicy"] == "Never":
            return False
        return bool(container.exit_code) or (self.pod["spec"]["restartPolicy"] == "Always" and container in self.containers)

    def _start(self, container: Container) -> None:
        image = pull(self, container)

        def start() -> None:
            plan = environment.plan(container.spec, image, self.pod, self.volumes, self.look)
            self.event("Normal", "Created", f"Created container: {container.name}", container)
            container.start(plan)

        def told(error: NotReadyError) -> None:
            container.wait_for("CreateContainerConfigError", str(error))
            self.event("Warning", "Failed", f"Error: {error}", container)

        self._until(start, told)
        if container.started:
            self.event("Normal", "Started", f"Started container {container.name}", container)

    def _end_containers(self) -> None:
        ending = self._ending
        assert ending
        alive = [container for container in [*self.init, *self.containers] if container.running]
        if alive and not self.cut_off:
            for container in alive:
                self.event("Normal", "Killing", f"Stopping container {container.name}", container)
        if ending.grace > 0:
            for container in alive:
                container.terminate()
        with self._turn:
            while ending.left > 0 and not all(container.done for container in alive):
                self._turn.wait(ending.left)
        for container in alive:
            container.kill()
        for container in alive:
            container.join()

    def _settle(self) -> None:
        """Say how it ended, and leave nothing behind."""
        for container in [*self.init, *self.containers]:
            container.log.close()
        self.volumes.remove()
        if not self.cut_off:
            self.cluster.reached(self, "exit")
            self._publish_end(self._ending)
            self.cluster.reached(self, "finished")
        with self._turn:
            self._over = True
            gone = self._ending is not None and self._ending.remove and not self.cut_off
        if gone:
            self.cluster.drop(self)

    def _publish_end(self, ending: Ending | None) -> None:
        failed = (ending and ending.status) or any(one.done and one.exit_code for one in [*self.init, *self.containers])
        failed = failed or not all(one.done for one in self.containers)
        reason = "PodFailed" if failed else "PodCompleted"
        if self._started:
            for kind in ("Initialized", "Ready", "ContainersReady"):
                self.conditions.set(kind, "True" if kind == "Initialized" else "False", reason)
            self.conditions.set("PodReadyToStartContainers", "False")
        if self.node:
            self.publish(phase="Failed" if failed else "Succeeded", **(ending.status if ending else {}))

    # Its tools

    def publish(self, spec: Object | None = None, **status: object) -> None:
        """Let the API show how things are."""
        if self.cut_off:
            return

        def change(pod: Object) -> None:
            pod["spec"] |= spec or {}
            pod["status"] = pod_status(pod["status"] | status, self.conditions, self.init, self.containers, bool(self._started))

        with contextlib.suppress(Refusal):  # the object is gone, the pod still ends
            self.pod = self.cluster.store.update("pods", self.namespace, self.pod_name, change, self.uid)

    def event(self, kind: str, reason: str, message: str, container: Container | None = None, source: str = "kubelet") -> None:
        """An Event about this pod."""
        part = f"spec.{'initContainers' if container in self.init else 'containers'}{{{container.name}}}" if container else ""
        self.cluster.event(self.pod, kind, reason, message, part, source)

    def _printed(self, line: str) -> None:
        self.cluster.printed(self, line)

    def _changed(self) -> None:
        if any(container.running for container in self.containers):  # the last one's end is published with the pod's
            self.publish()
        self.nudge()

    def _exiting(self) -> None:
        self.cluster.reached(self, "exiting")

    def _until(self, attempt: Callable[[], None], told: Callable[[NotReadyError], None]) -> None:
        """Try until what the pod needs is there."""
        said = ""
        while True:
            try:
                return attempt()
            except NotReadyError as error:
                if str(error) != said:
                    told(error)
                    self.publish()
                    said = str(error)
            self.pause(RETRY_SECONDS)

    def pause(self, seconds: float) -> None:
        """Let a time pass, unless the pod is told to end."""
        until = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= until, seconds)

    def _wait(self, over: Callable[[], bool], longest: float = 3600.0) -> None:
        """Wait, unless the pod is told to end, or its deadline comes."""
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        with self._turn:
            while self._ending is None and not over():
                left = self._started + deadline - time.monotonic() if deadline and self._started else longest
                if left <= 0:
                    grace = self.pod["spec"]["terminationGracePeriodSeconds"]
                    self._ending = Ending(grace, {"reason": "DeadlineExceeded", "message": LATE})
                else:
                    self._turn.wait(min(left, longest))
            if self._ending:
                raise _Ended
