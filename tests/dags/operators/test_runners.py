"""A step as an operator: quick steps in real processes, on the operator alone. With Airflow's servers: tests/pipeline.

One test runs a real step, which fails since a service does not answer.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks.contracts import STEPS, Download, RegisteredVersion
from tasks.schema import load as recipes
from tasks.workspace.run import Run
from tests.support import evaluated, quick_steps, tiny
from tests.support.processes import until
from tests.support.quick_steps import hold

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def log(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What operators log: records with `event` and `log_level`."""
    from structlog.testing import capture_logs

    import dags.operators.runners  # noqa: F401  Airflow sets its logging up as it is imported

    monkeypatch.setenv("PYTHONPATH", str(quick_steps.FOLDER))  # the operator adds the folder of the step's code
    with capture_logs() as records:
        yield records


def operator(step: str) -> Any:
    from dags.operators import retries, runners

    recipe = recipes.resolve(tiny.recipe_document(Path("/base"), Path("/rows.csv")), "full")
    return runners.step(step, recipe, **retries.RETRIES)


def execute(task: Any, run: Run, max_tries: int = 2) -> None:
    task.execute({"ti": SimpleNamespace(max_tries=max_tries), "run_id": run.folder.name})


def messages(log: Any) -> list[str]:
    return [record["event"] for record in log if "cannot be called outside" not in record["event"]]


def test_a_step_runs_and_its_lines_are_in_the_log(make_run: MakeRun, tiny_document: Any, log: Any) -> None:
    run = make_run(tiny_document)
    execute(operator("download"), run)
    assert run.read(Download).source is not None
    said = messages(log)
    assert said[0].endswith(f"-m tasks download --run {run.folder} --generation 0")
    assert "download: run tiny/test, profile full" in said
    assert not [record for record in log if record["log_level"] == "error"]


def test_a_clear_raises_the_generation_and_a_retry_does_not(make_run: MakeRun, tiny_document: Any) -> None:
    run, task = make_run(tiny_document), operator("download")
    written = run.folder / "download.json"
    execute(task, run)
    first = written.read_bytes()
    execute(task, run)  # a retry: the manifest is there
    assert written.read_bytes() == first
    execute(task, run, max_tries=5)  # cleared after the third try
    assert json.loads(written.read_text(encoding="utf-8"))["generation"] == 3


def test_a_fault_that_no_retry_mends_ends_in_one_block(make_run: MakeRun, tiny_document: Any, log: Any) -> None:
    run, task = make_run(tiny_document), operator("split")
    with pytest.raises(SystemExit) as caught:
        execute(task, run)
    assert caught.value.code == 66
    expected = f"ContractError\n{run.folder}/validate.json: not there (expected: the manifest of validate). Fix: run validate first"
    assert log[-1] == {"event": expected, "log_level": "error"}
    assert not any("ContractError" in message for message in messages(log)[:-1])
    assert action(task, caught.value) == "fail"


def test_a_fault_that_a_retry_may_mend_is_retried(make_run: MakeRun, tiny_document: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, task = make_run(tiny_document), operator("promote")
    evaluated.evaluate(run)
    run.write(RegisteredVersion("tiny", 1, "models:/tiny/1", "http://127.0.0.1:9"))
    monkeypatch.delenv("PYTHONPATH")  # the real step
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit) as caught:
        execute(task, run)
    assert caught.value.code == 75
    assert messages(log)[-1].startswith("ServiceError\nMLflow at http://127.0.0.1:9: no answer")
    assert action(task, caught.value) == "default"


def test_a_skip_skips_and_says_why(make_run: MakeRun, tiny_document: Any) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match=r"^skipped: validate: data is latest"):
        execute(operator("validate"), make_run(tiny_document, run__data="latest"))


def test_a_bug_ends_in_its_traceback_and_is_retried(make_run: MakeRun, tiny_document: Any, log: Any) -> None:
    run, task = make_run(tiny_document), operator("download")
    (run.folder / "recipe.yaml").write_text("- no recipe\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        execute(task, run)
    block = messages(log)[-1]
    assert block.startswith("Traceback (most recent call last):\n") and "AttributeError" in block.splitlines()[-1]
    assert (caught.value.code, action(task, caught.value)) == (1, "default")


def action(task: Any, exception: BaseException) -> str:
    return str(task.retry_policy.evaluate(exception, 1, 2).action.value)


def test_only_final_faults_are_not_retried(airflow_home: Path) -> None:
    task = operator("train")
    assert {code for code in range(-30, 256) if action(task, SystemExit(code)) == "fail"} == {64, 65, 66, 67, 68, 78}
    assert action(task, RuntimeError("a bug of ours")) == "default"


def when_running(task: Any, what: Callable[[], None]) -> threading.Thread:
    """Do something once the step's process runs."""

    def wait() -> None:
        until(lambda: task._child)
        what()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_kill_9_of_the_step_is_told_and_retried(make_run: MakeRun, tiny_document: Any, log: Any) -> None:
    run, task = make_run(tiny_document), operator("download")
    hold(run, "download")
    killer = when_running(task, lambda: os.kill(task._child.pid, signal.SIGKILL))
    with pytest.raises(SystemExit) as caught:
        execute(task, run)
    killer.join()
    assert (caught.value.code, action(task, caught.value)) == (-9, "default")
    assert messages(log)[-1] == "download: ended by SIGKILL (often: out of memory). Fix: a retry goes on from what is whole"


def test_on_kill_ends_the_step(make_run: MakeRun, tiny_document: Any, log: Any) -> None:
    run, task = make_run(tiny_document), operator("download")
    hold(run, "download")
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())  # as Airflow's task process does
    pids: list[int] = []
    try:
        killer = when_running(task, lambda: (pids.append(task._child.pid), os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(SystemExit):
            execute(task, run)
        killer.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not psutil.pid_exists(pids[0]) and not run.has(Download)
    assert messages(log)[-2] == f"download: ending process {pids[0]}"
    assert messages(log)[-1].startswith("download: ended, because somebody marked or cleared this task")


def test_every_step_has_an_operator_named_after_it(airflow_home: Path) -> None:
    for step in STEPS:
        task = operator(step)
        assert (task.task_id, task.step) == (step, step)


def test_a_run_id_cannot_leave_the_recipes_folder_or_add_an_argument(home: Path, log: Any) -> None:
    from dags.operators.start import run_of

    for run_id in ("../../x", "a b --generation 9", "$(touch /tmp/x)"):
        run = run_of("tiny", run_id)
        assert run.folder.parent == home / "runs" / "tiny" and " " not in run.folder.name
