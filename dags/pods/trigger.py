"""The watch over a step's pod while its task is deferred: runs in Airflow's triggerer, holds no worker, and hands the log on.

It keeps nothing that its successor would need: how long a pod may wait is counted from the times on the pod itself, and each line of
the log bears the time at which the step printed it. So a triggerer that dies neither ends nor prolongs anything, and where the next
one reads a log from its start, Airflow's page shows a line once, since both say the same of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import aiohttp
from airflow.providers.cncf.kubernetes.exceptions import KubernetesApiError
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent
from kubernetes_asyncio.client import ApiException, CoreV1Api, V1DeleteOptions, V1Preconditions

from dags.operators.step_log import LogPosition, StepLog, timestamp
from dags.pods import outcome
from dags.pods import status as pod_status
from dags.pods.outcome import PodLimits
from dags.pods.spec import CONTAINER, Json
from tasks.secrets.redaction import without_secrets

OUTAGE_SECONDS = 900.0
"""How long the API may not answer before the task is told. The pod is left alone."""

OUTAGES = (ApiException, KubernetesApiError, aiohttp.ClientError, OSError, TimeoutError)


class PodWatch(KubernetesPodTrigger):
    """Fires once: the pod has ended or should be waited for no longer, or it is gone, or nobody can see it.

    Args:
        uid: of the pod; another one may bear its name later.
        limits: what was agreed for the pod.
        awaiting_deletion: the pod is in the way of another one, and what is waited for is that it is gone.
        position: how far its log was read before.
        state: handed back with the event.
    """

    def __init__(
        self,
        *,
        uid: str,
        limits: Json,
        awaiting_deletion: bool = False,
        position: Json | None = None,
        state: Json | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"trigger_start_time": None, "base_container_name": CONTAINER, **kwargs})
        self.uid, self.limits, self.awaiting_deletion = uid, limits, awaiting_deletion
        self.position, self.state = position or {}, state or {}
        self._read = LogPosition(**self.position)
        self._stage = ""
        self._lines = StepLog(self._say)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How another triggerer makes this one again."""
        _, kwargs = super().serialize()
        own = {name: getattr(self, name) for name in ("uid", "limits", "awaiting_deletion", "position", "state")}
        return "dags.pods.trigger.PodWatch", kwargs | own

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the pod every few seconds."""
        seen: Json | None = None
        silent_since: float | None = None
        while True:
            try:
                pod = await self._look()
                silent_since = None
            except OUTAGES as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    self.log.warning("the cluster does not answer (%s); the pod goes on, and so does the watch", _short(error))
                if time.monotonic() - silent_since > OUTAGE_SECONDS:
                    yield self._event("unseen", seen, error=_short(error))
                    return
            else:
                if status := await self._status(pod, seen):
                    self._fired_event = True
                    yield self._event(status, seen if pod is None else pod)
                    return
                seen = pod
            await asyncio.sleep(self.poll_interval)

    async def on_kill(self) -> None:
        """End the pod: somebody marked or cleared the task meanwhile."""
        self.log.info("somebody marked or cleared this task: ending pod %s", self.pod_name)
        options = V1DeleteOptions(grace_period_seconds=self.termination_grace_period, preconditions=V1Preconditions(uid=self.uid))
        async with self.hook.get_conn() as connection:
            try:
                await CoreV1Api(connection).delete_namespaced_pod(self.pod_name, self.pod_namespace, body=options)
            except ApiException as error:
                if error.status not in (404, 409):  # gone, or another one bears its name
                    raise

    async def _look(self) -> Json | None:
        """The pod as the API has it; None where it is gone."""
        async with self.hook.get_conn() as connection:
            try:
                pod: Json = connection.sanitize_for_serialization(
                    await CoreV1Api(connection).read_namespaced_pod(self.pod_name, self.pod_namespace)
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        return pod if pod["metadata"]["uid"] == self.uid else None

    async def _status(self, pod: Json | None, seen: Json | None) -> str:
        """What the task is to be told; empty while there is nothing."""
        now = datetime.now(UTC)
        if pod is None:
            self._lines.flush()
            return "gone"
        if self.awaiting_deletion:
            return "stuck" if pod_status.stuck(pod, now) else ""
        if (stage := pod_status.stage(pod)) and stage != self._stage:
            self._stage = stage
            self.log.info("%s", stage)
        await self._read_log(pod)
        return "ended" if outcome.read(pod, PodLimits(**self.limits), now) else ""

    async def _read_log(self, pod: Json) -> None:
        """Say what the step has printed since; a log that cannot be read holds nothing up."""
        if not pod_status.has_started(pod):
            return
        try:
            lines = await self.hook.read_logs(self.pod_name, self.pod_namespace, CONTAINER, self._read.age())
        except OUTAGES as error:
            self.log.debug("no log: %s", error)
            return
        for at, text in self._read.unread(lines):
            self._lines.take(text, at)
            if not self._lines.last_words:
                self.position = asdict(self._read)

    def _say(self, text: str, at: float) -> None:
        self.log.info("%s", text, timestamp=timestamp(at))

    def _event(self, status: str, pod: Json | None, error: str = "") -> TriggerEvent:
        """What the task is told; short, since Airflow writes it into the task's log."""
        last = pod_status.brief(pod or {"metadata": {"name": self.pod_name, "namespace": self.pod_namespace}})
        handed_back = {name: getattr(self, name) for name in ("uid", "awaiting_deletion", "position", "state")}
        told = {"status": status, **handed_back}
        return TriggerEvent({**told, "last": last, "error": error})


def _short(error: Exception) -> str:
    return without_secrets(f"{type(error).__name__}: {getattr(error, 'reason', None) or error}")
