"""What became of a pod, read from objects as the API returns them: one sentence and one action for each fault."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dags.pods.outcome import Action, PodLimits, PodOutcome, gone, message_of, read, refused
from dags.pods.status import brief, stage
from tasks.errors import BY_EXIT_CODE, FINAL_EXIT_CODES

MADE = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LIMITS = PodLimits("train", "registry.example/steps:1", "16Gi", "50Gi", deadline_hours=24, schedule_minutes=60, start_minutes=20)
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:30:00Z"}
LOOK = "kubectl -n team get events --field-selector involvedObject.name=tiny-train-1"


def pod(state: dict[str, Any] | None = None, *conditions: dict[str, Any], deleted: str | None = None, **status: Any) -> dict[str, Any]:
    """A pod; with a state of its container it has a node."""
    metadata = {"name": "tiny-train-1", "namespace": "team", "uid": "u", "creationTimestamp": "2026-01-01T12:00:00Z"}
    metadata |= {"deletionTimestamp": deleted} if deleted else {}
    containers = [{"name": "istio-proxy", "state": {"running": {}}}, {"name": "step", "state": state}] if state else None
    placed = (*conditions, SCHEDULED) if state else conditions
    return {
        "metadata": metadata,
        "spec": {"nodeName": "gpu-7"} if state else {},
        "status": {"conditions": list(placed) or None, "containerStatuses": containers, **status},
    }


def ended(exit_code: int, why: str = "Error", **status: Any) -> dict[str, Any]:
    return pod({"terminated": {"exitCode": exit_code, "reason": why}}, **{"phase": "Failed" if exit_code else "Succeeded", **status})


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": message}}, phase="Pending")


def at(minutes: float, found: dict[str, Any], limits: PodLimits = LIMITS) -> PodOutcome | None:
    return read(found, limits, MADE + timedelta(minutes=minutes))


def disruption(kind: str, reason: str, message: str = "taken") -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}
GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked"}
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. "
OVER = "Pod ephemeral local storage usage exceeds the total limit of containers 50Gi. "
ADMISSION = "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu"
AGAIN = ". Fix: another pod goes on from what is whole"

FAULTS: dict[str, tuple[dict[str, Any], float, Action, int, str]] = {
    "evicted": (
        ended(137, phase="Failed", reason="Evicted", message=LOW), 40, Action.AGAIN, 75, f"evicted ({LOW.strip()}){AGAIN}"
    ),
    "evicted for its own use of the disk": (
        pod(phase="Failed", reason="Evicted", message=OVER), 40, Action.FINAL, 64,
        f"evicted ({OVER.strip()}) (expected: to do with 50Gi of scratch disk). Fix: raise pods.step_resources.train.ephemeral_storage",
    ),
    "pre-empted, its checkpoint saved": (
        pod({"terminated": {"exitCode": 143}}, disruption("DisruptionTarget", "PreemptionByScheduler"), phase="Failed"), 40,
        Action.AGAIN, 75, f"pre-empted or evicted (PreemptionByScheduler: taken){AGAIN}",
    ),
    "pre-empted by a queue": (
        pod({"terminated": {"exitCode": 137}}, disruption("TerminationTarget", "WorkloadEvicted"), phase="Failed"), 40,
        Action.AGAIN, 75, f"pre-empted or evicted (WorkloadEvicted: taken){AGAIN}",
    ),
    "told to end, by nobody knows whom": (ended(143), 40, Action.AGAIN, 75, f"was told to end, and did{AGAIN}"),
    "its node shuts down": (
        pod(phase="Failed", reason="Terminated", message="node shutdown"), 40, Action.AGAIN, 75,
        f"its node (none) went away (Terminated: node shutdown){AGAIN}",
    ),
    "its node is lost": (
        pod({"running": {}}, disruption("DisruptionTarget", "x"), phase="Running", reason="NodeLost", deleted="2026-01-01T12:40:00Z"), 40,
        Action.AGAIN, 75, f"its node gpu-7 went away (NodeLost){AGAIN}",
    ),
    "it does not end": (
        pod({"running": {}}, phase="Running", deleted="2026-01-01T12:40:00Z"), 42, Action.AGAIN, 75,
        f"does not end, so its node gpu-7 is lost{AGAIN}",
    ),
    "its node has no device left": (
        pod(phase="Failed", reason="UnexpectedAdmissionError", message=ADMISSION), 40, Action.AGAIN, 75,
        f"turned away by node (none) (UnexpectedAdmissionError: {ADMISSION}){AGAIN}",
    ),
    "its node has no room after all": (
        pod(phase="Failed", reason="OutOfcpu"), 40, Action.AGAIN, 75, f"turned away by node (none) (OutOfcpu){AGAIN}"
    ),
    "out of memory": (
        ended(137, "OOMKilled"), 40, Action.HALVE, 71,
        "killed for want of memory (OOMKilled) (expected: to do with 16Gi). Fix: the next try takes half the micro-batch; "
        "or raise pods.step_resources.train.memory",
    ),
    "its time is up": (
        pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active on the node longer than the specified deadline"), 40,
        Action.FINAL, 64, "ended by the cluster (DeadlineExceeded) (expected: an end within 24 hours). Fix: raise pods.deadline_hours",
    ),
    "no node": (
        pod(None, UNPLACED, phase="Pending"), 61, Action.RETRY, 75,
        f"got no node (Unschedulable: {UNPLACED['message']}) (expected: one within 60 minutes). Fix: raise "
            f"pods.schedule_minutes, or look: {LOOK}",
    ),
    "no place in the queue": (
        pod(None, GATED, phase="Pending"), 61, Action.RETRY, 75,
        "got no node (SchedulingGated: Scheduling is blocked) (expected: one within 60 minutes). Fix: raise pods.schedule_minutes, "
        f"or look: {LOOK}",
    ),
    "no image": (
        waiting("ErrImagePull", "manifest unknown"), 30, Action.RETRY, 75,
        "image registry.example/steps:1 cannot be pulled (ErrImagePull: manifest unknown) (expected: one that the cluster can pull). Fix: "
        f"set LORAFLOW_IMAGE and LORAFLOW_IMAGE_PULL_SECRETS; {LOOK}",
    ),
    "a registry that stays busy": (
        waiting("ImagePullBackOff", "429 Too Many Requests"), 51, Action.RETRY, 75,
        "did not start on node gpu-7 (ImagePullBackOff: 429 Too Many Requests) (expected: a process within 20 minutes). Fix: "
        f"raise pods.start_minutes, or look: {LOOK}",
    ),
    "no name of an image": (
        waiting("InvalidImageName", "invalid reference format"), 30, Action.FINAL, 78,
        "image 'registry.example/steps:1' (InvalidImageName: invalid reference format) (expected: the name of an "
            "image). Fix: set LORAFLOW_IMAGE",
    ),
    "no secret": (
        waiting("CreateContainerConfigError", 'secret "hub" not found'), 30, Action.FINAL, 78,
        'cannot start (CreateContainerConfigError: secret "hub" not found) (expected: what '
        "LORAFLOW_POD_SECRETS and LORAFLOW_POD_CONFIG_MAPS name). Fix: make it: kubectl -n team get secrets,configmaps",
    ),
    "not started": (
        waiting("ContainerCreating"), 51, Action.RETRY, 75,
        f"did not start on node gpu-7 (ContainerCreating) (expected: a process within 20 minutes). Fix: raise "
            f"pods.start_minutes, or look: {LOOK}",
    ),
    "no command": (
        pod({"terminated": {"exitCode": 128, "reason": "StartError", "message": 'exec: "python": not found'}}, phase="Failed"), 40,
        Action.FINAL, 78,
        'image registry.example/steps:1 cannot run its command (StartError: exec: "python": not found) (expected: an image '
        "of the steps). Fix: set LORAFLOW_IMAGE",
    ),
    "killed": (ended(137), 40, Action.RETRY, 137, "ended with exit code 137 (SIGKILL, often for want of memory). Fix: "
        "the lines above say why"),
    "a bug": (ended(1), 40, Action.RETRY, 1, "ended with exit code 1. Fix: the lines above say why"),
    "something else": (
        pod(phase="Failed", reason="Odd", message="x"), 40, Action.RETRY, 75, f"failed (Odd: x) (expected: a process "
            f"that ends). Fix: {LOOK}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_and_one_action(fault: str) -> None:
    found, minutes, action, exit_code, words = FAULTS[fault]
    finding = at(minutes, found)
    assert finding and (finding.action, finding.exit_code) == (action, exit_code)
    assert finding.words == f"train: pod tiny-train-1: {words}"
    assert (action is Action.FINAL) == (exit_code in FINAL_EXIT_CODES)


@pytest.mark.parametrize("exit_code", sorted(BY_EXIT_CODE))
def test_an_exit_code_of_ours_goes_before_what_the_cluster_did(exit_code: int) -> None:
    finding = at(40, pod({"terminated": {"exitCode": exit_code}}, disruption("DisruptionTarget", "PreemptionByScheduler"), phase="Failed"))
    expected = {
        64: "FINAL",
        65: "FINAL",
        66: "FINAL",
        67: "FINAL",
        68: "FINAL",
        78: "FINAL",
        71: "RETRY",
        75: "RETRY",
        99: "SKIP",
        143: "AGAIN",
    }
    assert finding and finding.action.name == expected[exit_code]
    if exit_code != 143:
        assert finding.own and finding.exit_code == exit_code
        assert finding.words.startswith(f"train: pod tiny-train-1: ended with exit code {exit_code}, {BY_EXIT_CODE[exit_code].__name__}: ")


def test_a_step_whose_batch_cannot_be_halved_is_not_tried_again_with_the_same_memory() -> None:
    limits = PodLimits("merge", "i", "4Gi", "1Gi", 1, 1, 1)
    finding = at(40, ended(137, "OOMKilled"), limits)
    assert finding and (finding.action, finding.exit_code) == (Action.FINAL, 64)
    assert finding.words.endswith("to do with 4Gi). Fix: raise pods.step_resources.merge.memory")


@pytest.mark.parametrize(
    ("found", "minutes"),
    [
        (pod(phase="Pending"), 59),
        (pod(None, UNPLACED, phase="Pending"), 59),
        (pod(None, GATED, phase="Pending"), 59),
        (waiting("ContainerCreating"), 49),
        (waiting("ErrImagePull", "toomanyrequests: You have reached your pull rate limit"), 49),
        (pod({"running": {}}, phase="Running"), 9999),
        (pod({"running": {}}, phase="Running", deleted="2026-01-01T12:40:00Z"), 40.5),
        (pod(phase="Pending", deleted="2026-01-01T13:05:00Z"), 64),
    ],
)
def test_all_is_well_while_waiting_is_right(found: dict[str, Any], minutes: float) -> None:
    assert at(minutes, found) is None


def test_an_end_well_is_one_though_the_pod_goes_on_or_was_to_be_taken() -> None:
    for found in (ended(0), ended(0, phase="Running"), ended(0, phase="Failed", reason="Evicted", message=LOW), pod(phase="Succeeded")):
        assert at(40, found) == PodOutcome(Action.DONE, exit_code=0)


def test_a_pod_that_is_gone_is_judged_by_what_was_seen_last() -> None:
    vanished = gone(brief(pod({"running": {}}, phase="Running")), LIMITS)
    assert vanished.action is Action.AGAIN and vanished.words.endswith("vanished: somebody or something deleted it" + AGAIN)
    preempted = pod(
        {"running": {}}, disruption("DisruptionTarget", "PreemptionByScheduler"), phase="Running", deleted="2026-01-01T12:40:00Z"
    )
    assert gone(brief(preempted), LIMITS).words.endswith(f"pre-empted or evicted (PreemptionByScheduler: taken){AGAIN}")
    assert gone(brief(ended(65)), LIMITS).exit_code == 65
    assert gone(brief(ended(137, "OOMKilled")), LIMITS).action is Action.HALVE
    assert gone(brief(ended(0)), LIMITS).action is Action.AGAIN  # its manifest was looked for before
    assert gone(brief({"metadata": pod()["metadata"]}), LIMITS).action is Action.AGAIN


def test_a_refusal_is_final_but_for_a_quota_that_is_used_up() -> None:
    rights = 'pods is forbidden: User "system:serviceaccount:airflow:worker" cannot create resource "pods"'
    finding = refused(403, rights, "train", "team")
    assert finding and (finding.action, finding.exit_code) == (Action.FINAL, 78)
    assert finding.words == (
        f"train: a pod in namespace team: refused by the cluster (403: {rights}) (expected: a pod that it accepts). Fix: "
        f"mend settings, recipe or "
        "rights: kubectl auth can-i create pods -n team; kubectl -n team describe quota,limitrange"
    )
    for status in (400, 404, 422):
        assert (refused(status, "x", "train", "team") or finding).action is Action.FINAL
    for status in (401, 429, 500, 503):
        assert (refused(status, "x", "train", "team") or finding).action is Action.RETRY
    quota = 'pods "tiny" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8'
    assert refused(403, quota, "train", "team") is None


def test_what_the_api_says_is_told_without_its_wrapping() -> None:
    assert message_of('{"kind": "Status", "message": "no\\n  way"}', "Forbidden") == "no way"
    assert message_of("<html>", "Bad Gateway") == "Bad Gateway"
    assert message_of(None, None) == "no reason given"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (pod(phase="Pending"), "pod tiny-train-1 waits for a node"),
        (pod(None, UNPLACED, phase="Pending"), "pod tiny-train-1 waits for a node (0/3 nodes are available: 3 Insufficient cpu.)"),
        (pod(None, GATED, phase="Pending"), "pod tiny-train-1 waits in its queue"),
        (waiting("ContainerCreating"), "pod tiny-train-1 starts on node gpu-7"),
        (waiting("ErrImagePull", "rate limit"), "pod tiny-train-1 starts on node gpu-7 (ErrImagePull: rate limit)"),
        (pod({"running": {}}, phase="Running"), "pod tiny-train-1 runs on node gpu-7"),
        (pod({"running": {}}, phase="Running", deleted="2026-01-01T12:40:00Z"), "pod tiny-train-1 was told to end"),
        (ended(1), ""),
    ],
)
def test_a_log_says_what_a_pod_waits_for(found: dict[str, Any], line: str) -> None:
    assert stage(found) == line
