"""A real Airflow for tests, its servers on loopback, impatient where a user would be kept waiting."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from tasks.local_servers import configuration, supervisor
from tasks.settings import Settings
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run
from tests.support.loopback import free_port

IMPATIENT = {
    "CORE__PARALLELISM": "3",
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
    "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "3",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "12",
    "DAG_PROCESSOR__PARSING_CLEANUP_INTERVAL": "3",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "3",
    "DAG_PROCESSOR__STALE_DAG_THRESHOLD": "5",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "3",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "WORKERS__EXECUTION_API_TIMEOUT": "60",
}
DONE = ("success", "failed", "skipped", "upstream_failed")
WAIT_SECONDS = 900.0
SERVERS_LOG = "servers.log"


class Airflow:
    """Its REST API, its servers by name, and the place its runs lie in."""

    def __init__(self, settings: Settings, servers: dict[str, subprocess.Popen[bytes]], start: Callable[[str], None]) -> None:
        self.settings, self.servers, self._start = settings, servers, start
        self._http = httpx.Client(base_url=configuration.airflow_url(settings), timeout=120, trust_env=False)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What the API answers; an error of its is an error here."""
        answer = self.try_to(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def try_to(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The API's answer, whatever it is."""
        if "Authorization" not in self._http.headers:
            self._http.headers["Authorization"] = f"Bearer {self._http.get('/auth/token').json()['access_token']}"
        return self._http.request(method, f"/api/v2{path}", **options)

    def trigger(self, recipe: str, use: str = "retrain", **values: Any) -> "AirflowRun":
        """Start a run as the form does, of the recipe's DAG for a use."""
        found = self.ask("POST", f"/dags/{use}_{recipe}/dagRuns", json={"logical_date": None, "conf": values})
        return AirflowRun(self, recipe, found["dag_run_id"], use)

    def dag(self, recipe: str) -> dict[str, Any] | None:
        """The DAG of a recipe; None where Airflow does not know it."""
        answer = self.try_to("GET", f"/dags/retrain_{recipe}")
        return answer.json() if answer.is_success else None

    def kill(self, name: str) -> None:
        """Let a server and all that it has started die at once, as with its machine, and another one take its place."""
        found = psutil.Process(self.servers[name].pid)
        for process in (found, *found.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.servers[name].wait()
        self._start(name)

    def until(self, what: Callable[[], Any], expected: str) -> Any:
        """Wait for something to come to pass."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (value := what()):
            assert time.monotonic() < deadline, f"not in {WAIT_SECONDS:.0f} s: {expected}"
            time.sleep(0.4)
        return value


class AirflowRun:
    """One run of one recipe."""

    def __init__(self, airflow: Airflow, recipe: str, run_id: str, use: str = "retrain") -> None:
        self.airflow, self.recipe, self.id, self.dag_id = airflow, recipe, run_id, f"{use}_{recipe}"
        self.path = f"/dags/{self.dag_id}/dagRuns/{quote(run_id, safe='')}"
        self.run = Run(run_folder(airflow.settings.runs_folder, recipe, run_id))

    @property
    def state(self) -> str:
        """The run's state."""
        return str(self.airflow.ask("GET", self.path)["state"])

    def task(self, name: str) -> dict[str, Any]:
        """What Airflow knows of a task."""
        return dict(self.airflow.ask("GET", f"{self.path}/taskInstances/{name}"))

    def instances(self, name: str) -> list[dict[str, Any]]:
        """What Airflow knows of each instance of a mapped task."""
        found = self.airflow.ask("GET", f"{self.path}/taskInstances", params={"task_id": name})["task_instances"]
        return sorted(found, key=lambda one: one["map_index"])

    def states(self) -> dict[str, str]:
        """State of each task."""
        return {one["task_id"]: one["state"] for one in self.airflow.ask("GET", f"{self.path}/taskInstances")["task_instances"]}

    def log(self, name: str, attempt: int | None = None) -> list[dict[str, Any]]:
        """Records of a task's log, without Airflow's own words about them."""
        attempt = attempt or self.task(name)["try_number"]
        content = self.airflow.ask("GET", f"{self.path}/taskInstances/{name}/logs/{attempt}", params={"full_content": True})["content"]
        return [record for record in content if "level" in record and "::" not in record["event"]]

    def wait(self, name: str, *states: str) -> dict[str, Any]:
        """Wait until a task is in one of the states; fail at once, with its log, where it has ended in another."""

        def reached() -> dict[str, Any] | None:
            task = self.task(name)
            if task["state"] in states:
                return task
            if self.state in ("success", "failed") and task["state"] in DONE:
                raise AssertionError(f"{name} is {task['state']}: {self.told()}")
            return None

        return dict(self.airflow.until(reached, f"{self.recipe}.{name} is {' or '.join(states)}"))

    def end(self) -> str:
        """Wait until the run has ended; its state."""
        self.airflow.until(lambda: self.state in ("success", "failed"), f"the end of {self.recipe}")
        return self.state

    def told(self) -> str:
        """States, and the end of the log of each failed task."""
        states = self.states()
        logs = {name: [record["event"] for record in self.log(name)][-6:] for name, state in states.items() if state == "failed"}
        return json.dumps({"states": states, "logs": logs}, indent=1)

    def clear(self, *names: str | tuple[str, int], downstream: bool = False) -> None:
        """Clear tasks, as the UI does; of a mapped one an instance."""
        body = {"dry_run": False, "dag_run_id": self.id, "task_ids": list(names), "only_failed": False, "include_downstream": downstream}
        self.airflow.ask("POST", f"/dags/{self.dag_id}/clearTaskInstances", json=body)

    def mark(self, name: str, state: str) -> None:
        """Mark a task, as the UI does."""
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/{name}", json={"new_state": state})

    def answer(self, option: str, **values: str) -> None:
        """Answer as the reviewer, who takes longer to read than Airflow's executor to report the task's pause.

        A task that goes on before that, some five seconds, counts as killed: Airflow tries it again, and asks anew.
        """
        told = f"task_id='approve', run_id='{self.id}', try_number={self.task('approve')['try_number']},"
        log = self.airflow.settings.home / SERVERS_LOG
        self.airflow.until(
            lambda: any("Received executor event" in line and told in line for line in log.read_text(errors="replace").splitlines()),
            "the executor's report of the pause",
        )
        body = {"chosen_options": [option], "params_input": values}
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/approve/-1/hitlDetails", json=body)

    def link(self, name: str) -> str | None:
        """The MLflow link of a task."""
        found = self.airflow.ask("GET", f"{self.path}/taskInstances/{name}/links")["extra_links"]
        return found.get("MLflow")

    def process(self, name: str) -> psutil.Process:
        """The process of a step, once it runs."""

        def found() -> psutil.Process | None:
            for process in psutil.process_iter(["cmdline"]):
                command = process.info["cmdline"] or []
                if command[1:4] == ["-m", "tasks", name] and str(self.run.folder) in command:
                    return process
            return None

        return self.airflow.until(found, f"a process of {name}")


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


@contextmanager
def running(home: Path, recipes: Path, extra: Mapping[str, str] | None = None) -> Iterator[Airflow]:
    """Airflow on a home of its own, with the recipes of a folder; all its processes are ended at the end.

    Args:
        home: for everything that it keeps.
        recipes: folder of the recipes that it has DAGs for.
        extra: further environment of its servers, settings of loraflow and of Airflow among it.
    """
    extra = {"LORAFLOW_RECIPES": str(recipes), **(extra or {})}
    ours = {name.removeprefix("LORAFLOW_").lower(): value for name, value in extra.items() if name.startswith("LORAFLOW_")}
    settings = Settings(home=home, airflow_port=free_port(), **ours)  # type: ignore[arg-type]
    configuration.write_airflow_configuration(settings)
    mark = f"tests-{os.getpid()}-{home.parent.name}"
    env = configuration.environment(settings, mark) | {f"AIRFLOW__{name}": value for name, value in IMPATIENT.items()}
    env = {name: value for name, value in env.items() if not name.startswith("LORAFLOW_") or name == "LORAFLOW_HOME"}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **extra}
    servers: dict[str, subprocess.Popen[bytes]] = {}
    commands = {server.name: server.command for server in configuration.servers(settings) if server.name != "mlflow"}
    with (home / SERVERS_LOG).open("ab") as stream:
        options: dict[str, Any] = {"env": env, "cwd": home, "stdout": stream, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}

        def start(name: str) -> None:
            servers[name] = subprocess.Popen(commands[name], **options)

        try:
            subprocess.run([*commands["api-server"][:-1], "db", "migrate"], check=True, **options)
            for name in commands:
                start(name)
            airflow = Airflow(settings, servers, start)
            names = [path.stem for path in recipes.glob("*.yaml")]
            airflow.until(lambda: _answers(settings), "an answer of the API server")
            airflow.until(lambda: all(airflow.dag(name) for name in names), f"DAGs of {', '.join(names)}")
            yield airflow
        finally:
            for process in servers.values():
                process.send_signal(signal.SIGKILL)
                process.wait()
            supervisor.kill_leftovers(mark)


def _answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{configuration.airflow_url(settings)}/api/v2/version", trust_env=False).is_success
    except httpx.HTTPError:
        return False
