"""GET …/pods/NAME/log."""

import time
from collections.abc import Iterator

from tests.support.kubernetes_api.answers import Object, bad_request
from tests.support.kubernetes_api.cluster import Cluster
from tests.support.kubernetes_api.life import PodLife
from tests.support.kubernetes_api.log import Line, Log

Query = dict[str, str]
YES = ("true", "1", "True")


def log_stream(cluster: Cluster, pod: Object, query: Query) -> Iterator[bytes]:
    """The log that is asked for; empty pieces now and then where it is followed and nothing comes.

    Raises:
        Refusal: no such container, or it has not started.
    """
    name = _container(pod, query.get("container", ""))
    previous = query.get("previous") in YES
    log = cluster.log_of(pod, name, previous) if pod["spec"].get("nodeName") else None
    if log is None:
        return iter(())
    waiting = next((one["state"].get("waiting") for one in _statuses(pod) if one["name"] == name), {"reason": "ContainerCreating"})
    if waiting and not log.lines and not previous:
        raise bad_request(f'container "{name}" in pod "{pod["metadata"]["name"]}" is waiting to start: {waiting["reason"]}')
    return _while_reachable(cluster.life_of(pod), _limited(_lines(log, query), query))


def _while_reachable(life: PodLife, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if life.cut_off:
            break
        yield piece
    if life.cut_off:
        raise ConnectionResetError("the pod's node is lost")


def _statuses(pod: Object) -> list[Object]:
    return [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]


def _container(pod: Object, name: str) -> str:
    names = [one["name"] for one in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]]
    if not name and len(pod["spec"]["containers"]) > 1:
        raise bad_request(f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(names)}]")
    if name and name not in names:
        raise bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    return name or names[0]


def _lines(log: Log, query: Query) -> Iterator[Line | None]:
    since = 0
    if "sinceSeconds" in query:
        since = time.time_ns() - int(query["sinceSeconds"]) * 10**9
    kept = list(log.lines)
    start = next((number for number, line in enumerate(kept) if line.time_ns >= since), len(kept))
    if "tailLines" in query:
        start = max(start, len(kept) - int(query["tailLines"]))
    return log.follow(start) if query.get("follow") in YES else iter(kept[start:])


def _limited(lines: Iterator[Line | None], query: Query) -> Iterator[bytes]:
    timestamps = query.get("timestamps") in YES
    left = int(query["limitBytes"]) if "limitBytes" in query else None
    for line in lines:
        shown = line.shown(timestamps) if line else b""
        if left is not None:
            shown = shown[:left]
            left -= len(shown)
        yield shown
        if left == 0:
            return
