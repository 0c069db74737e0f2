"""Step → operator: the only place that knows where a step runs. Here it is a child process of the task's own process."""

import ast
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from logging import Logger
from typing import Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.definitions.mappedoperator import MappedOperator

from dags import faults
from dags.links import MlflowLink
from dags.start import run_of
from tasks import errors
from tasks.contracts import STEPS, Plan
from tasks.lifeline import Child, ParentGoneError
from tasks.settings import CHECKOUT, quiet_environment, settings

_OURS = "|".join(name for name in vars(errors) if name.endswith(("Error", "Errors")))
LAST_WORDS = re.compile(rf"skipped: .*|{_OURS}|Traceback \(most recent call last\):")
"""How the block begins that a process prints before it fails or skips."""
WITHOUT_TRAINING = STEPS[: STEPS.index("train")]
"""The steps before MLflow has anything of the run."""
LAST_SECONDS = 5.0
"""A block that is followed by more output after this time was not the last."""


def step(name: str, recipe: str, **options: Any) -> BaseOperator:
    """The operator that runs a step of a recipe's runs, under the step's own name.

    Args:
        name: the step.
        recipe: name of the recipe.
        options: further arguments of the operator, `trigger_rule` for example.
    """
    return LocalStep(step=name, recipe=recipe, task_id=name, doc_md=docstring(name), **options)


def trials(recipe: str) -> tuple[BaseOperator, MappedOperator]:
    """The operator of `plan`, and of `trial` for each trial that it plans, so many at once as the settings say."""
    planned = LocalPlan(step="plan", recipe=recipe, task_id="plan", doc_md=docstring("plan"))
    taken = LocalTrial.partial(
        step="trial",
        recipe=recipe,
        task_id="trial",
        doc_md=docstring("trial"),
        max_active_tis_per_dagrun=settings().sweep_trainings,
        map_index_template="{{ task.part }}",
    ).expand(part=XComArg(planned))
    return planned, taken


def docstring(name: str) -> str | None:
    """What a step says of itself, read from the head of its file without importing it."""
    file = (CHECKOUT / "tasks" / f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(file[: file.find('"""', 3) + 3]))  # parsing all of it would take longest of all here
    if text is None:
        return None
    first, _, rest = text.partition("\n\n")
    return f"{first}\n\n```\n{rest}\n```" if rest else first


class LocalStep(BaseOperator):
    """A step as a child process that dies with its task.

    Args:
        step: name of the step.
        recipe: name of the recipe.
        part: which part of its work the step is to do; empty: all of it.
    """

    def __init__(self, step: str, recipe: str, part: str = "", **kwargs: Any) -> None:
        super().__init__(**{"do_xcom_push": False, **kwargs})
        self.step, self.recipe, self.part = step, recipe, part
        self._child: Child | None = None
        self._killed = False
        if step not in WITHOUT_TRAINING:
            self.operator_extra_links = (MlflowLink(),)

    def execute(self, context: Any) -> Any:
        """Run the step to its end, its output in the task's log line by line."""
        ti = context["ti"]
        run = run_of(self.recipe, context["run_id"])
        generation = ti.max_tries - self.retries  # a clear raises max_tries, a retry does not
        argv = [sys.executable, "-m", "tasks", self.step, "--run", str(run.folder), "--generation", str(generation)]
        argv += ["--part", self.part] if self.part else []
        self.log.info("%s", " ".join(argv))
        try:
            exit_code, last_words = self._run(argv)
        except ParentGoneError:
            self.log.error("the worker of this task has died, so the step was ended")
            raise SystemExit(errors.ServiceError.exit_code) from None
        if exit_code == 0 and last_words:
            self.log.info("%s", last_words)
        if self._killed:
            last_words = f"{self.step}: ended, because somebody marked or cleared this task, or its worker shuts down"
        faults.end(self.log, exit_code, last_words or f"{self.step}: {_how(exit_code)}")

    def on_kill(self) -> None:
        """End the step: the task was marked or cleared by somebody, or its worker shuts down."""
        self._killed = True
        if self._child:
            self.log.info("%s: ending process %d", self.step, self._child.pid)
            self._child.end()

    def _run(self, argv: list[str]) -> tuple[int, str]:
        """Exit code and last words of the step's process."""
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        env = quiet_environment() | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        with Child(argv, env) as self._child:
            last_words = log_lines(self.log, self._child.lines())
            return self._child.wait(), last_words


class LocalPlan(LocalStep):
    """The step `plan`; hands on the names of the trials, for Airflow to map."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, do_xcom_push=True)

    def execute(self, context: Any) -> list[str]:
        """Run the step; the manifest says which trials there are."""
        super().execute(context)
        with faults.readable(self.log):
            return [trial.name for trial in run_of(self.recipe, context["run_id"]).read(Plan).trials]


class LocalTrial(LocalStep):
    """The step `trial`; Airflow takes a mapped task's links from its class."""

    operator_extra_links = (MlflowLink(),)


def log_lines(log: Logger, lines: Iterable[str]) -> str:
    """Log lines as they come, all but the block that the process ends with, which is returned."""
    block: list[str] = []
    began = 0.0
    for line in lines:
        if block and time.monotonic() - began > LAST_SECONDS:
            log.info("%s", "\n".join(block))
            block = []
        if block:
            block.append(line)
        elif LAST_WORDS.fullmatch(line):
            block, began = [line], time.monotonic()
        elif line:
            log.info("%s", line)
    return "\n".join(block).strip()


def _how(exit_code: int) -> str:
    """How a process ended that said nothing of ours, in words."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = " (often: out of memory)" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}; a retry goes on from what is whole"
    return f"ended with exit code {exit_code}; the lines above say why"
