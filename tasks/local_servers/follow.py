"""Retrain a recipe through the running Airflow and follow the run: live in a terminal, line by line in a log."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tasks.errors import RecipeError
from tasks.local_servers.airflow_api import Airflow, Task
from tasks.workspace.progress import LOG_SECONDS, Position, clock, read_position
from tasks.workspace.run import Run

LOOK_SECONDS = 1.0
DAG_SECONDS = 90.0
STOP_SECONDS = 20.0
LOG_LINES = 40

ENDED = ("success", "failed")
"""States of a run that is over."""

SIGNS = {"success": "✓", "failed": "✗", "running": "▶", "skipped": "-", "upstream_failed": "·", "up_for_retry": "↻", "none": " "}
WORDS = {
    "success": "done",
    "up_for_retry": "failed, is tried again soon",
    "upstream_failed": "not reached",
    "none": "",
    "scheduled": "next",
    "queued": "next",
    "deferred": "waits",
    "awaiting_input": "waits for your answer in Airflow's UI",
}
"""Airflow's states in the reader's words, where they differ."""
COLOURS = {"success": "green", "failed": "red", "running": "cyan", "up_for_retry": "yellow", "awaiting_input": "yellow"}


class Follower:
    """A run, from its trigger to its end.

    Args:
        airflow: the API to speak to.
        recipe: name of the recipe.
        console: where to show the run.
    """

    def __init__(self, airflow: Airflow, recipe: str, console: Console) -> None:
        self._airflow, self._console = airflow, console
        self.dag_id = f"retrain_{recipe}"
        self.run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._seen: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._logged, self._line, self._what = 0.0, "", ""

    def trigger(self, values: Mapping[str, Any], servers_started: float) -> None:
        """Start the run as soon as Airflow has read the recipe's DAG.

        Args:
            values: form field → value.
            servers_started: Unix time; import errors of before are old.

        Raises:
            RecipeError: there is no such DAG, or the form refuses a value.
        """
        deadline = time.monotonic() + DAG_SECONDS
        with self._console.status("waiting for Airflow to read the DAG"):
            while not self._airflow.can_trigger(self.dag_id):
                found = self._airflow.import_errors(servers_started)
                if found or time.monotonic() > deadline:
                    raise RecipeError(self.dag_id, f"no such DAG in Airflow\n{found}", "one for each recipe file", "mend what it says")
                time.sleep(LOOK_SECONDS)
        self._airflow.trigger(self.dag_id, self.run_id, values)

    def follow(self, run: Run) -> bool:
        """Show the run until it ends; whether it ended well.

        Args:
            run: the run, whose steps write how far they are.
        """
        self._console.print(f"Run {self.run_id} of {self.dag_id}, to be seen in Airflow: {self._page()}", highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            return self._until_the_end(run, self._log)
        with Live(console=self._console, refresh_per_second=4) as live:
            return self._until_the_end(run, lambda tasks, position: live.update(self._table(tasks, position)))

    def _until_the_end(self, run: Run, show: Any) -> bool:
        while True:
            state = self._airflow.run_state(self.dag_id, self.run_id)
            tasks = self._airflow.tasks(self.dag_id, self.run_id)
            for task in tasks:
                if task.state == "running":
                    self._began.setdefault(f"{task.name} {task.tries}", time.monotonic())
            show(tasks, _position(run, tasks))
            if state in ENDED:
                self._explain(tasks)
                return state == "success"
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End the run where it stands, and wait a moment for Airflow to notice."""
        deadline = time.monotonic() + STOP_SECONDS
        if self._airflow.run_state(self.dag_id, self.run_id) not in ENDED:
            self._airflow.fail(self.dag_id, self.run_id)
        while self._airflow.run_state(self.dag_id, self.run_id) not in ENDED and time.monotonic() < deadline:
            time.sleep(0.5)

    def _page(self) -> str:
        return self._airflow.run_page(self.dag_id, self.run_id)

    def _table(self, tasks: list[Task], position: Position | None) -> Group:
        table = Table.grid(padding=(0, 1))
        for task in tasks:
            colour = COLOURS.get(task.state, "dim")
            again = f" (try {task.tries})" if task.tries > 1 else ""
            cells = (SIGNS.get(task.state, "·"), task.name, self._time(task), WORDS.get(task.state, task.state) + again)
            table.add_row(*(Text(cell, style=colour) for cell in cells))
        return Group(table, Text(position.line() if position else ""))

    def _log(self, tasks: list[Task], position: Position | None) -> None:
        for task in tasks:
            now = f"{task.state} {task.tries}"
            if self._seen.get(task.name, "none 0") != now and task.state not in ("none", "scheduled", "queued"):
                again = f" (try {task.tries})" if task.tries > 1 else ""
                spent = f" after {self._time(task)}" if task.state in ("success", "failed") else ""
                self._say(f"{task.name}: {WORDS.get(task.state, task.state)}{again}{spent}")
            self._seen[task.name] = now
        if position and position.line() != self._line:
            what = f"{position.step} {position.what}"
            if what != self._what or time.monotonic() - self._logged >= LOG_SECONDS:
                self._logged, self._line, self._what = time.monotonic(), position.line(), what
                self._say(f"  {self._line}")

    def _time(self, task: Task) -> str:
        began = self._began.get(f"{task.name} {task.tries}")
        if task.state == "running" and began:
            return clock(time.monotonic() - began)
        return clock(task.seconds) if task.seconds is not None and task.state in ("success", "failed") else ""

    def _explain(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.state == "failed":
                self._console.rule(f"{task.name} failed: the end of its log")
                for line in self._airflow.log(self.dag_id, self.run_id, task)[-LOG_LINES:]:
                    self._say(line)
                self._console.rule()
                self._say(f"To look further: loraflow up, then {self._page()}/tasks/{task.name}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _position(run: Run, tasks: list[Task]) -> Position | None:
    """Where the running step stands, if it has said so."""
    position = read_position(run)
    running = {task.name for task in tasks if task.state == "running"}
    return position if position and position.step in running else None
