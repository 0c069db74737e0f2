"""A step as a child process of its task's own process, which dies with it."""

import os
import signal
import sys
import time
from typing import Any

from airflow.sdk import BaseOperator

from dags.operators import retries
from dags.operators.mlflow_link import MlflowLink, links_of
from dags.operators.start import generation_of, run_of
from dags.operators.step_log import StepLog
from tasks import errors
from tasks.contracts import Plan
from tasks.process.child import Child, ParentGoneError
from tasks.settings import CHECKOUT, quiet_environment


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
        self.operator_extra_links = links_of(step)

    def execute(self, context: Any) -> Any:
        """Run the step to its end, its output in the task's log line by line."""
        with retries.explain_errors(self.log):
            self._execute(context)

    def _execute(self, context: Any) -> None:
        run, generation = run_of(self.recipe, context["run_id"]), generation_of(self, context)
        argv = [sys.executable, "-m", "tasks", self.step, "--run", run.uri, "--generation", str(generation)]
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
        retries.end(self.log, exit_code, last_words or f"{self.step}: {_how(exit_code)}")

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
            lines = StepLog(lambda text, _: self.log.info("%s", text))
            for line in self._child.lines():
                lines.take(line, time.monotonic())
            return self._child.wait(), lines.last_words


class LocalPlan(LocalStep):
    """The step `sweep_plan`; hands on the names of the trials, for Airflow to map."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, do_xcom_push=True)

    def execute(self, context: Any) -> list[str]:
        """Run the step; the manifest says which trials there are."""
        super().execute(context)
        with retries.explain_errors(self.log):
            return run_of(self.recipe, context["run_id"]).read(Plan).parts


class LocalTrial(LocalStep):
    """The step `sweep_trial`; Airflow takes a mapped task's links from its class."""

    operator_extra_links = (MlflowLink(),)


def _how(exit_code: int) -> str:
    """How a process ended that said nothing of ours, in words."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = " (often: out of memory)" if name == "SIGKILL" else ""
        return errors.explain(f"ended by {name}{memory}", fix="a retry goes on from what is whole")
    return errors.explain(f"ended with exit code {exit_code}", fix="the lines above say why")
