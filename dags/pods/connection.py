"""The cluster that the settings name: the way to it, and what it refuses, in our own words."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk.exceptions import AirflowNotFoundException
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from dags.operators import retries
from dags.pods import outcome
from tasks.errors import ServiceError, SettingsError
from tasks.settings import settings


def connection() -> dict[str, Any]:
    """The connection that the settings name, or the cluster that this runs in; no default connection that happens to be there."""
    named = settings().kubernetes_conn
    return {"kubernetes_conn_id": named, "in_cluster": None if named else True}


def hook() -> KubernetesHook:
    """The way to the cluster."""
    return KubernetesHook(conn_id=None, **connection())


@contextmanager
def explain_cluster_errors(task: str, log: Logger) -> Iterator[None]:
    """End the running task in our own words where the cluster cannot be reached, or does not let us.

    Args:
        task: what the words call it.
        log: takes them.

    Raises:
        SystemExit: it failed.
    """
    where = f"{task}: the cluster"
    with retries.explain_errors(log):
        try:
            yield
        except (ConfigException, AirflowNotFoundException) as error:
            raise SettingsError(where, f"no way to it ({error})", "a connection", "set LORAFLOW_KUBERNETES_CONN") from None
        except ApiException as error:
            message = outcome.message_of(error.body, error.reason)
            if error.status == 403:
                raise SettingsError(where, f"forbids it ({message})", "Airflow's rights", "grant them: docs/kubernetes.md") from None
            raise ServiceError(where, f"answered {error.status} ({message})", "what was asked for", "it is asked again") from None
        except HTTPError as error:
            raise ServiceError(where, f"no answer ({error})", "an answer", "it is asked again, and a pod that runs goes on") from None
