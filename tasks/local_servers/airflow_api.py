"""Airflow's REST API, as far as following a run needs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from graphlib import TopologicalSorter
from typing import Any
from urllib.parse import quote

import httpx
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_fixed

from tasks.errors import RecipeError, ServiceError
from tasks.secrets.redaction import in_one_line

TRIES = 5
FINISHED = ("success", "failed", "skipped", "upstream_failed")


@dataclass(frozen=True)
class Task:
    """One task of a run, as Airflow sees it."""

    name: str
    state: str
    """Airflow's word; `none` where it has not been scheduled."""
    tries: int
    seconds: float | None
    """How long it has run."""


class Airflow:
    """A client of Airflow's API server.

    Args:
        url: its address, without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False, transport=httpx.HTTPTransport(retries=2))

    def can_trigger(self, dag_id: str) -> bool:
        """Whether the DAG is there and without fault."""
        dags = self._ask("GET", "/api/v2/dags", params={"dag_id_pattern": dag_id, "limit": 100})["dags"]
        return any(dag["dag_id"] == dag_id and not dag["is_stale"] and not dag["has_import_errors"] for dag in dags)

    def import_errors(self, since: float = 0.0) -> str:
        """The import errors that DAG files have had since then (Unix time), as one text; empty where there are none."""
        errors = self._ask("GET", "/api/v2/importErrors")["import_errors"]
        recent = [error for error in errors if datetime.fromisoformat(error["timestamp"]).timestamp() >= since]
        return "\n".join(f"{error['filename']}: {error['stack_trace'].strip()}" for error in recent)

    def trigger(self, dag_id: str, run_id: str, values: Mapping[str, Any]) -> None:
        """Start a run with values for the form's fields.

        Raises:
            RecipeError: the form refuses a value; no run exists then.
        """
        body = {"logical_date": None, "dag_run_id": run_id, "conf": dict(values)}
        self._ask("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", json=body)

    def run_page(self, dag_id: str, run_id: str) -> str:
        """Address of a run in the UI."""
        return f"{self.url}/dags/{dag_id}/runs/{run_id}"

    def run_state(self, dag_id: str, run_id: str) -> str:
        """queued, running, success or failed."""
        return str(self._ask("GET", _run_path(dag_id, run_id))["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """The run's tasks, in the order in which the DAG performs them."""
        order = self._order(dag_id)
        found = self._ask("GET", f"{_run_path(dag_id, run_id)}/taskInstances", params={"limit": 100})["task_instances"]
        tasks = [Task(one["task_id"], one["state"] or "none", one["try_number"], one["duration"]) for one in found]
        return sorted(tasks, key=lambda task: order.index(task.name))

    def log(self, dag_id: str, run_id: str, task: Task) -> list[str]:
        """The lines of a task's last try, without the groups that Airflow folds away."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task.name)}/logs/{task.tries}"
        content = self._ask("GET", path, params={"full_content": True})["content"]
        lines, folded = [], False
        for part in content:
            event = str(part["event"])
            folded = (folded or event.startswith("::group::")) and not event.startswith("::endgroup::")
            if not folded and not event.startswith("::endgroup::"):
                faults = [f"{fault['exc_type']}: {fault['exc_value']}" for fault in part.get("error_detail") or []]
                lines += [line for text in (event, *faults) for line in text.splitlines()]
        return lines

    def fail(self, dag_id: str, run_id: str) -> None:
        """Mark the task that a run stands at as failed, which ends its process, and with it the run.

        Not the run itself, unless it is still queued: Airflow then marks the tasks to come as skipped, and may take a run whose
        last task is skipped for a success.
        """
        if self.run_state(dag_id, run_id) == "queued":
            self._ask("PATCH", _run_path(dag_id, run_id), json={"state": "failed"})
        elif unfinished := [task for task in self.tasks(dag_id, run_id) if task.state not in FINISHED]:
            self._ask("PATCH", f"{_run_path(dag_id, run_id)}/taskInstances/{quote(unfinished[0].name)}", json={"new_state": "failed"})

    @cache  # noqa: B019 - a client lives as long as its command
    def _order(self, dag_id: str) -> list[str]:
        """The DAG's tasks along its arrows."""
        tasks = self._ask("GET", f"/api/v2/dags/{quote(dag_id)}/tasks")["tasks"]
        upstream: TopologicalSorter[str] = TopologicalSorter()
        for task in tasks:
            upstream.add(task["task_id"])
            for later in task["downstream_task_ids"]:
                upstream.add(later, task["task_id"])
        return list(upstream.static_order())

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """What Airflow answers; a GET is tried again after a timeout or a server error, such as a locked database."""
        tries = Retrying(
            retry=retry_if_exception_type(httpx.HTTPError) | retry_if_result(lambda answer: answer.status_code >= 500),
            stop=stop_after_attempt(TRIES if method == "GET" else 1),
            wait=wait_fixed(1),
            reraise=True,
        )
        try:
            answer = tries(self._request, method, path, options)
        except RetryError as error:
            answer = error.last_attempt.result()
        except httpx.HTTPError as error:
            found = f"no answer ({error.__class__.__name__}: {error})"
            raise ServiceError(f"Airflow at {self.url}", found, "a running API server", "see loraflow up, or its logs") from None
        if answer.status_code == 400:
            reason = str(answer.json()["detail"]).split("\n\n")[0]  # below it: the schema, and the value once more
            raise RecipeError("trigger form", reason, remedy="correct the value")
        if answer.is_error:
            raise ServiceError(f"Airflow at {self.url}", f"{answer.status_code} to {method} {path}: {in_one_line(answer.text)}")
        return answer.json()

    def _request(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        """The answer, under a token that is good: on loopback Airflow gives one to whoever asks."""
        answer = self._http.request(method, path, **options)
        if answer.status_code == 401:
            token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
            answer = self._http.request(method, path, **options)
        return answer


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"
