"""What a pod's status shows of its state."""

import threading
from collections.abc import Iterable, Sequence

from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.container import Container
from tests.support.kubernetes_api.store import now


class Conditions:
    """A pod's conditions by type; the time of each is that of its last turn."""

    def __init__(self, given: Iterable[Object] = ()) -> None:
        self._by_type = {condition["type"]: condition for condition in given}
        self._guard = threading.Lock()

    def set(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        """What is true of the pod now."""
        with self._guard:
            before = self._by_type.get(kind, {})
            turned = before["lastTransitionTime"] if before.get("status") == status and "lastTransitionTime" in before else now()
            told = {key: text for key, text in (("reason", reason), ("message", message)) if text}
            self._by_type[kind] = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": turned, **told}

    def shown(self) -> list[Object]:
        """As the status lists them."""
        with self._guard:
            return list(self._by_type.values())


def pod_status(status: Object, conditions: Conditions, init: Sequence[Container], containers: Sequence[Container], on_node: bool) -> Object:
    """The whole status: what was said before, brought up to date."""
    told = status | {"conditions": conditions.shown()}
    if on_node:
        if init:
            told["initContainerStatuses"] = [container.status() for container in init]
        told["containerStatuses"] = [container.status() for container in containers]
        if told["phase"] == "Pending" and not any(one.state.get("waiting") for one in containers):
            told["phase"] = "Running"
    if "podIP" in told:
        told["podIPs"] = [{"ip": told["podIP"]}]
    if "hostIP" in told:
        told["hostIPs"] = [{"ip": told["hostIP"]}]
    return told
