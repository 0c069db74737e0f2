"""What became of a pod: from its object as the API returns it to one sentence and an action. Pure.

An exit code of ours says more than anything that the cluster has to say, so it goes first. What the cluster did to the pod (evicted,
pre-empted, node lost) is nobody's fault: another pod takes its place, and no try of the task is spent on it. What waiting or another
try can mend is tried again. The rest is final: somebody has to change a recipe, a setting or the cluster.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Self

from dags.pods import status as pod_status
from dags.pods.spec import Json, Work, image
from dags.pods.status import condition, said, when
from tasks import errors
from tasks.errors import LoraflowError, OutOfMemoryError, RecipeError, ServiceError, SettingsError, explain
from tasks.settings import Settings

HALVING = ("train", "sweep_trial", "evaluate")
"""Steps that take half the rows at once after they ran out of memory."""
LOST_NODE = ("NodeLost", "NodeShutdown", "Shutdown", "Terminated")
"""Reasons of a pod whose node went away or went down; `Terminated` is that of a graceful shutdown."""
TURNED_AWAY = ("UnexpectedAdmissionError", "NodeAffinity", "Preempting")
NO_IMAGE = ("InvalidImageName", "ErrImageNeverPull")
UNPULLED = ("ErrImagePull", "ImagePullBackOff")
BUSY = ("too many requests", "rate limit", "qps", "timeout", "temporarily", "unavailable", "bad gateway", "connection re")
"""What the cluster says of a registry that is only busy; it asks again by itself."""


class Action(Enum):
    """What follows."""

    DONE = "the step's process ended well"
    SKIP = "the step had nothing to do"
    AGAIN = "another pod takes its place, within the same try"
    RETRY = "the task is tried again"
    HALVE = "the task is tried again with half the micro-batch"
    FINAL = "no retry mends it"


@dataclass(frozen=True)
class PodOutcome:
    """What became of a pod.

    Attributes:
        words: as every error has them.
        exit_code: the task's own.
        own: the step itself has said why, in its log.
    """

    action: Action
    words: str = ""
    exit_code: int = ServiceError.exit_code
    own: bool = False


DONE = PodOutcome(Action.DONE, exit_code=0)


@dataclass(frozen=True)
class PodLimits:
    """What was agreed for a step's pod, as far as its end is judged by it."""

    step: str
    image: str
    memory: str
    storage: str
    deadline_hours: float
    schedule_minutes: float
    start_minutes: float

    @classmethod
    def of(cls, work: Work, settings: Settings) -> Self:
        """The limits of a piece of work."""
        pods = work.recipe.pods
        asked = pods.resources_of(work.step)
        limits = (pods.deadline_hours, pods.schedule_minutes, pods.start_minutes)
        return cls(work.step, image(work, settings), asked.memory, asked.ephemeral_storage, *limits)


def read(pod: Json, limits: PodLimits, now: datetime) -> PodOutcome | None:
    """What became of a pod; None while all is well with it, and waiting is right."""
    case = _Case(pod, limits)
    phase = case.status.get("phase", "Pending")
    if (exit_code := pod_status.exit_code(pod)) is not None:
        return case.ended(exit_code)
    if phase == "Succeeded":
        return DONE
    if phase == "Failed" or case.reason == "NodeLost":
        return case.taken() or case.retry(f"failed ({said(case.status)})", "a process that ends", pod_status.kubectl_hint(pod))
    if pod_status.stuck(pod, now):
        return case.again(f"does not end, so its node {pod_status.node(pod)} is lost")
    if phase == "Pending" and not pod["metadata"].get("deletionTimestamp"):
        return case.scheduled(now) if condition(pod, "PodScheduled").get("status") == "True" else case.unscheduled(now)
    return None


def gone(pod: Json, limits: PodLimits) -> PodOutcome:
    """What became of a pod that is there no longer, as it was last seen."""
    case, exit_code = _Case(pod, limits), pod_status.exit_code(pod)
    found = case.taken() if exit_code is None else case.ended(exit_code)
    return found if found and found is not DONE else case.again("vanished: somebody or something deleted it")


def refused(status: int, message: str, step: str, namespace: str) -> PodOutcome | None:
    """What it means that the API made no pod; None where it may make one later: a quota is used up."""
    where, why = f"{step}: a pod in namespace {namespace}", f"({status}: {message})"
    if status == 403 and "exceeded quota" in message:
        return None
    if status in (400, 403, 404, 422):
        look = f"kubectl auth can-i create pods -n {namespace}; kubectl -n {namespace} describe quota,limitrange"
        words = f"{where}: " + explain(f"refused by the cluster {why}", "a pod that it accepts", f"mend settings, recipe or rights: {look}")
        return PodOutcome(Action.FINAL, words, SettingsError.exit_code)
    return PodOutcome(Action.RETRY, f"{where}: " + explain(f"not made {why}", "an API that answers", "it is asked again"))


def message_of(body: str | None, reason: str | None) -> str:
    """What the API said in refusing something."""
    try:
        return " ".join(str(json.loads(body or "")["message"]).split())
    except (ValueError, KeyError, TypeError):
        return reason or "no reason given"


class _Case:
    """A pod, and what was agreed for it."""

    def __init__(self, pod: Json, limits: PodLimits) -> None:
        self.pod, self.limits = pod, limits
        self.status: Json = pod.get("status") or {}
        self.reason: str = self.status.get("reason") or ""

    def ended(self, exit_code: int) -> PodOutcome:
        """The step's process has ended."""
        end = pod_status.terminated(self.pod)
        if exit_code == 0:
            return DONE
        if exit_code == errors.InterruptedRunError.exit_code:
            return self.taken() or self.again("was told to end, and did")
        if error := errors.BY_EXIT_CODE.get(exit_code):
            says = (error.__doc__ or "").strip().splitlines()[0]
            action = Action.SKIP if error is errors.Skip else Action.RETRY if error.retryable else Action.FINAL
            return PodOutcome(action, self._words(f"ended with exit code {exit_code}, {error.__name__}: {says}"), exit_code, own=True)
        if end.get("reason") == "OOMKilled":
            return self.out_of_memory()
        if end.get("reason") in ("StartError", "ContainerCannotRun"):
            found = f"image {self.limits.image} cannot run its command ({said(end)})"
            return self.final(found, "an image of the steps", "set LORAFLOW_IMAGE", SettingsError)
        killed = " (SIGKILL, often for want of memory)" if exit_code == 137 else ""
        words = self._words(f"ended with exit code {exit_code}{killed}", remedy="the lines above say why")
        return self.taken() or PodOutcome(Action.RETRY, words, exit_code, own=True)

    def out_of_memory(self) -> PodOutcome:
        """The kernel killed the step for want of memory."""
        found, expected = "killed for want of memory (OOMKilled)", f"to do with {self.limits.memory}"
        more = f"raise pods.step_resources.{self.limits.step}.memory"
        if self.limits.step not in HALVING:
            return self.final(found, expected, more, RecipeError)
        words = self._words(found, expected, f"the next try takes half the micro-batch; or {more}")
        return PodOutcome(Action.HALVE, words, OutOfMemoryError.exit_code)

    def taken(self) -> PodOutcome | None:
        """The cluster took the pod away, or let its time run out; None where it did not."""
        message = " ".join((self.status.get("message") or "").split())
        if self.reason == "DeadlineExceeded":
            expected = f"an end within {self.limits.deadline_hours:g} hours"
            return self.final("ended by the cluster (DeadlineExceeded)", expected, "raise pods.deadline_hours", RecipeError)
        if self.reason == "Evicted" and "exceed" in message:  # its own limit; of a node in want it says "was low on resource"
            expected = f"to do with {self.limits.storage} of scratch disk"
            return self.final(
                f"evicted ({message})", expected, f"raise pods.step_resources.{self.limits.step}.ephemeral_storage", RecipeError
            )
        if self.reason == "Evicted":
            return self.again(f"evicted ({message})")
        if self.reason in LOST_NODE:
            return self.again(f"its node {pod_status.node(self.pod)} went away ({said(self.status)})")
        for disruption in (condition(self.pod, kind) for kind in pod_status.DISRUPTIONS):
            if disruption.get("status") == "True":
                return self.again(f"pre-empted or evicted ({said(disruption)})")
        if self.reason.startswith("OutOf") or self.reason in TURNED_AWAY:
            return self.again(f"turned away by node {pod_status.node(self.pod)} ({said(self.status)})")
        return None

    def unscheduled(self, now: datetime) -> PodOutcome | None:
        """It has no node, and may be waiting in a queue."""
        minutes = self.limits.schedule_minutes
        if (now - when(self.pod["metadata"]["creationTimestamp"])).total_seconds() < minutes * 60:
            return None
        found, expected = f"got no node ({said(condition(self.pod, 'PodScheduled'))})", f"one within {minutes:g} minutes"
        return self.retry(found, expected, f"raise pods.schedule_minutes, or look: {pod_status.kubectl_hint(self.pod)}")

    def scheduled(self, now: datetime) -> PodOutcome | None:
        """It has a node, and its process has not begun."""
        waiting, minutes = pod_status.state(self.pod).get("waiting") or {}, self.limits.start_minutes
        reason, why, message = waiting.get("reason", ""), said(waiting), (waiting.get("message") or "").lower()
        if reason in NO_IMAGE:
            return self.final(f"image {self.limits.image!r} ({why})", "the name of an image", "set LORAFLOW_IMAGE", SettingsError)
        if reason in UNPULLED and not any(busy in message for busy in BUSY):
            found, expected = f"image {self.limits.image} cannot be pulled ({why})", "one that the cluster can pull"
            return self.retry(found, expected, f"set LORAFLOW_IMAGE and LORAFLOW_IMAGE_PULL_SECRETS; {pod_status.kubectl_hint(self.pod)}")
        if reason == "CreateContainerConfigError":
            expected = "what LORAFLOW_POD_SECRETS and LORAFLOW_POD_CONFIG_MAPS name"
            remedy = f"make it: kubectl -n {self.pod['metadata']['namespace']} get secrets,configmaps"
            return self.final(f"cannot start ({why})", expected, remedy, SettingsError)
        since = condition(self.pod, "PodScheduled").get("lastTransitionTime") or self.pod["metadata"]["creationTimestamp"]
        if (now - when(since)).total_seconds() < minutes * 60:
            return None
        found, expected = f"did not start on node {pod_status.node(self.pod)} ({why})", f"a process within {minutes:g} minutes"
        return self.retry(found, expected, f"raise pods.start_minutes, or look: {pod_status.kubectl_hint(self.pod)}")

    def again(self, found: str) -> PodOutcome:
        return PodOutcome(Action.AGAIN, self._words(found, remedy="another pod goes on from what is whole"))

    def retry(self, found: str, expected: str, remedy: str) -> PodOutcome:
        return PodOutcome(Action.RETRY, self._words(found, expected, remedy))

    def final(self, found: str, expected: str, remedy: str, error: type[LoraflowError]) -> PodOutcome:
        return PodOutcome(Action.FINAL, self._words(found, expected, remedy), error.exit_code)

    def _words(self, found: str, expected: str = "", remedy: str = "") -> str:
        return str(LoraflowError(f"{self.limits.step}: pod {self.pod['metadata']['name']}", found, expected, remedy))
