"""What tasks ask of the cluster about pods: find, make and end them, read what they printed. Pods are plain JSON here."""

from collections.abc import Callable
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client import ApiException, CoreV1Api, V1DeleteOptions, V1Pod, V1Preconditions
from urllib3.exceptions import HTTPError

from dags.operators.step_log import LogPosition, StepLog
from dags.pods import status
from dags.pods.spec import CONTAINER, Json


class PodApi:
    """The verbs that a step's task needs of Kubernetes' API; each is tried again where the API is busy.

    Args:
        client: of the API.
        namespace: where the pods are.
    """

    def __init__(self, client: CoreV1Api, namespace: str) -> None:
        self._client, self._namespace = client, namespace

    @generic_api_retry
    def find(self, name: str, uid: str | None = None) -> Json | None:
        """The pod of a name; with `uid` that one alone."""
        try:
            pod = self._plain(self._client.read_namespaced_pod(name, self._namespace))
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return pod if uid in (None, pod["metadata"]["uid"]) else None

    @generic_api_retry
    def all(self, selector: str) -> list[Json]:
        """The pods whose labels fit."""
        found: list[Json] = self._plain(self._client.list_namespaced_pod(self._namespace, label_selector=selector))["items"]
        return found

    @generic_api_retry
    def make(self, pod: V1Pod) -> Json:
        """Make a pod, or take the one that is there already: that is another's, or our own, of which we were not told.

        Raises:
            ApiException: the API made none.
        """
        try:
            return self._plain(self._client.create_namespaced_pod(self._namespace, pod))
        except ApiException as error:
            if error.status == 409 and (there := self.find(pod.metadata.name)):
                return there
            raise

    @generic_api_retry
    def end(self, pod: Json, grace_seconds: int | None = None) -> None:
        """Tell a pod to end, within its own grace period or this one; a pod that took its name meanwhile is left alone."""
        options = V1DeleteOptions(grace_period_seconds=grace_seconds, preconditions=V1Preconditions(uid=pod["metadata"]["uid"]))
        try:
            self._client.delete_namespaced_pod(pod["metadata"]["name"], self._namespace, body=options)
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    def rest_of_log(self, pod: Json, place: LogPosition, say: Callable[[str, float], None]) -> str:
        """Say what a pod printed after a place, all but the block that it ended with, which is returned.

        Where the log is lost, the pod itself still holds its end.
        """
        log = StepLog(say)
        if not status.has_started(pod):
            return ""
        try:
            for at, line in place.unread(self._log(pod["metadata"]["name"], place)):
                log.take(line, at)
        except (ApiException, HTTPError):
            log = StepLog(lambda *_: None)
            for line in status.printed_last(pod).splitlines():
                log.take(line, 0.0)
        return log.last_words

    def warnings(self, pod: Json) -> list[str]:
        """What the cluster complained about, as far as it tells us."""
        about = f"involvedObject.uid={pod['metadata']['uid']},type=Warning"
        try:
            events = self._plain(self._client.list_namespaced_event(self._namespace, field_selector=about))["items"]
        except (ApiException, HTTPError):
            return []
        return [f"{event.get('reason')}: {' '.join((event.get('message') or '').split())}" for event in events]

    @generic_api_retry
    def _log(self, name: str, place: LogPosition) -> list[str]:
        answer = self._client.read_namespaced_pod_log(
            name, self._namespace, container=CONTAINER, timestamps=True, since_seconds=place.age(), _preload_content=False
        )
        return str(answer.data.decode(errors="replace")).split("\n")

    def _plain(self, thing: Any) -> Json:
        """A model of the client's as the API sent it."""
        plain: Json = self._client.api_client.sanitize_for_serialization(thing)
        return plain
