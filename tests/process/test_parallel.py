"""Several processes that train together: the same training as one, one fault, no orphans. Here over gloo, on processors."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DataError, RecipeError, ServiceError
from tasks.model.memory import Shortage, kernel_kills
from tasks.process.parallel import in_ranks
from tasks.schema import load as recipes
from tasks.training import fit, job
from tasks.workspace.checkpoint_files import newest_whole, step_of
from tasks.workspace.perform import perform
from tests.support import ranked, tiny
from tests.support.processes import apart, children, ended, gone, losses, step, until

pytestmark = pytest.mark.trains

STEPS = 45
"""Three epochs of 15 steps of 8 rows, the last of them of one: for it one of the processes has no row."""

TOLERANCE = 1e-5
"""Between one process and two, a loss or a weight; seen are 5e-7 and 1e-6."""


def document(base: Path, **train: Any) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    found["train"] |= {"logging_steps": 1, "save_steps": 4, "eval_strategy": "epoch"} | train
    return found


def test_two_processes_train_as_one_killed_stopped_and_resumed(home: Path, tiny_base: Path) -> None:
    rows = tiny.tweets(194)
    one, two = (home / "runs/tiny/one", home / "runs/tiny/two")
    alone = tiny.start_at_train(one, tiny_base, rows, document(tiny_base, per_device_train_batch_size=8), validation=21)
    spread = document(tiny_base, per_device_train_batch_size=2, gradient_accumulation_steps=2, gpus=2)
    shared = tiny.start_at_train(two, tiny_base, rows, spread, validation=21)
    perform("train", alone)
    kept = shared.folder / "train" / "g0-kept"

    with step("train", shared) as process:
        until(lambda: newest_whole(kept), process)
        below = children(process)
        assert len(below) >= 2
        process.kill()
        assert gone(below), "they outlived their parent"
    killed_at = step_of(newest_whole(kept))
    with step("train", shared) as process:
        until(lambda: step_of(newest_whole(kept)) > killed_at, process)
        os.kill(process.pid, signal.SIGTERM)  # as a cluster does, which signals process 1 alone
        code, printed = ended(process)
    stopped = re.search(r"\n\nInterruptedRunError\ntrain: SIGTERM stopped it at step (\d+) of 45, with a checkpoint\. Fix: .*\n$", printed)
    assert code == 143 and stopped, printed
    assert step_of(newest_whole(kept)) == int(stopped[1]) < STEPS

    again: Any = perform("train", shared)
    assert (again.resumed_from_step, again.steps, again.epochs) == (int(stopped[1]), STEPS, 3.0)
    assert apart(alone, shared) < TOLERANCE
    assert losses(shared) == pytest.approx(losses(alone), abs=TOLERANCE) and len(losses(shared)) == STEPS
    assert losses(shared, "validation.loss") == pytest.approx(losses(alone, "validation.loss"), abs=TOLERANCE)
    assert len(losses(shared, "validation.loss")) == 3


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("data", DataError, r"^train.parquet: row 7: the text is empty \(expected: words\)\. Fix: add an expectation$"),
        ("bug", RuntimeError, r"^process 2 of 2 failed:\n(?s:.*)KeyError: 'nobody knows'"),
        (
            "killed",
            ServiceError,
            r"^train: process 2 of 2 ended by SIGKILL \(expected: all of them at work\)\. Fix: a retry goes on from what is",
        ),
    ],
)
def test_the_fault_of_one_is_the_fault_of_all(how: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        in_ranks(2, ranked.fails, how, "train")
    assert type(caught.value) is kind and "Connection closed" not in str(caught.value)


def test_a_kill_by_the_kernel_for_memory_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr("tasks.model.memory.CGROUP_EVENTS", events)
    assert kernel_kills() == 0
    monkeypatch.setenv("EVENTS", str(events))  # the process that is killed counts it there, as the kernel does
    events.write_text("low 0\nhigh 0\nmax 31\noom 1\noom_kill 1\noom_group_kill 0\n")
    with pytest.raises(Shortage, match=r"^the machine's memory ran out \(the kernel killed process 2 of 2\)$"):
        in_ranks(2, ranked.fails, "killed", "train")


def test_processes_that_hear_nothing_end_with_their_parent(tmp_path: Path) -> None:
    imports = "from tasks.process.parallel import in_ranks\nfrom tests.support import ranked\n"
    code = imports + f"in_ranks(2, ranked.waits, {str(tmp_path)!r}, 'train')"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: len(list(tmp_path.glob("here-*"))) == 2, process)
        below = children(process)
        process.kill()
        assert gone(below)


def test_more_gpus_than_there_are_is_told_before_anything_is_loaded(tiny_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    recipe = recipes.resolve(tiny_document, overrides={"train.gpus": 4})
    job._check_device(recipe)  # processes on a processor: as many as one likes
    monkeypatch.setattr(job, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        RecipeError, match=r"^tiny.yaml: train.gpus: is 4 on a machine with 2 \(expected: at most 2\)\. Fix: lower it, or ask for"
    ):
        job._check_device(recipe)


def test_steps_are_counted_over_all_processes(tiny_document: dict[str, Any]) -> None:
    counted = {"train.per_device_train_batch_size": 3, "train.gradient_accumulation_steps": 2, "train.num_train_epochs": 2}
    recipe = recipes.resolve(tiny_document, overrides=counted | {"train.gpus": 4})
    assert fit.total_steps_of(recipe, 25) == 2 * 2  # 24 rows a step
    assert fit.total_steps_of(recipes.resolve(tiny_document, overrides=counted), 25) == 2 * 5  # 6 rows a step
