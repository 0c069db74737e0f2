"""What a pod's object says, as the API returns it in JSON: how far it is, how its process ended. Pure, and without a judgement."""

from datetime import UTC, datetime

from dags.pods.spec import CONTAINER, Json

DISRUPTIONS = ("DisruptionTarget", "TerminationTarget")
"""Conditions of a pod that is taken away: Kubernetes' own, and Kueue's."""

STUCK_SECONDS = 60.0
"""A pod that is still there so long after the end of its grace period is on a node that nobody hears of."""


def stage(pod: Json) -> str:
    """What a pod waits for, or where it runs: one line for the log; empty where it has ended."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    phase, scheduled = status.get("phase", "Pending"), condition(pod, "PodScheduled")
    if phase not in ("Pending", "Running"):
        return ""
    if pod["metadata"].get("deletionTimestamp"):
        return f"pod {name} was told to end"
    if phase == "Running":
        return f"pod {name} runs on node {node(pod)}"
    if scheduled.get("status") == "True":
        waiting = state(pod).get("waiting") or {}
        detail = f" ({said(waiting)})" if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing") else ""
        return f"pod {name} starts on node {node(pod)}{detail}"
    if scheduled.get("reason") == "SchedulingGated":
        return f"pod {name} waits in its queue"
    return f"pod {name} waits for a node" + (f" ({scheduled['message']})" if scheduled.get("message") else "")


def stuck(pod: Json, now: datetime) -> bool:
    """Whether a pod that was told to end is still there long after it should have."""
    deleted = pod["metadata"].get("deletionTimestamp")
    return bool(deleted) and (now - when(deleted)).total_seconds() > STUCK_SECONDS


def kubectl_hint(pod: Json) -> str:
    """The command that shows more, also when the pod is gone."""
    metadata = pod["metadata"]
    return f"kubectl -n {metadata['namespace']} get events --field-selector involvedObject.name={metadata['name']}"


def has_started(pod: Json) -> bool:
    """Whether the step's process has begun, and so may have printed something."""
    return bool(state(pod).keys() & {"running", "terminated"})


def exit_code(pod: Json) -> int | None:
    """Exit code of the step's process, where it has ended."""
    code: int | None = terminated(pod).get("exitCode")
    return code


def printed_last(pod: Json) -> str:
    """The end of what the step printed, as the pod keeps it for one that failed."""
    return str(terminated(pod).get("message") or "")


def brief(pod: Json) -> Json:
    """As much of a pod as its end is judged by when it is gone."""
    status = pod.get("status") or {}
    end = {key: terminated(pod).get(key) for key in ("exitCode", "reason")}
    return {
        "metadata": {key: pod["metadata"][key] for key in ("name", "namespace")},
        "spec": {"nodeName": node(pod)},
        "status": {
            "reason": status.get("reason"),
            "message": status.get("message"),
            "conditions": [found for kind in DISRUPTIONS if (found := condition(pod, kind))],
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": end}}],
        },
    }


def state(pod: Json) -> Json:
    """State of the step's container."""
    containers: list[Json] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((container.get("state") or {} for container in containers if container["name"] == CONTAINER), {})


def terminated(pod: Json) -> Json:
    """How the step's process ended."""
    return state(pod).get("terminated") or {}


def condition(pod: Json, kind: str) -> Json:
    """A condition of the pod."""
    conditions: list[Json] = (pod.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})


def node(pod: Json) -> str:
    """Name of the pod's node."""
    return (pod.get("spec") or {}).get("nodeName") or "(none)"


def said(thing: Json) -> str:
    """Reason and message of a status, state or condition."""
    return ": ".join(" ".join(str(thing[key]).split()) for key in ("reason", "message") if thing.get(key)) or "no reason given"


def when(stamp: str) -> datetime:
    """A time as the API writes it."""
    found = datetime.fromisoformat(stamp)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
