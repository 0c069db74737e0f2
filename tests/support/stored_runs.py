"""A run in a bucket as machines see it that have seen nothing of it before, and steps that hand things on and die."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.contracts import MergedModel
from tasks.workspace.checkpoint_files import mark_whole
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run
from tests.support.s3_server import S3


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Take an empty scratch folder, as a machine has that has seen nothing before."""
    machines = iter(range(100))

    def take() -> Path:
        scratch = tmp_path / f"machine-{next(machines)}"
        monkeypatch.setenv("LORAFLOW_SCRATCH", str(scratch))
        return scratch

    return take


@pytest.fixture
def fresh(s3: S3, home: Path, new_machine: Callable[[], Path]) -> Callable[[], Run]:
    """The run `tiny/one` of a bucket, as a new machine sees it."""

    def run() -> Run:
        new_machine()
        return Run(run_folder(s3.url, "tiny", "one"))

    return run


def merged(run: Run) -> MergedModel:
    (run.attempt / "model").mkdir()
    (run.attempt / "model" / "weights").write_bytes(b"w" * 1000)
    (run.attempt / "log.txt").write_text("of no interest to later steps")
    return MergedModel(run.relative(run.attempt / "model"), "float32", 1)


def checkpoint(run: Run, step: int, best: int | None = None) -> Path:
    """A whole checkpoint as the trainer leaves it."""
    folder = run.kept / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"after step {step}")
    state = {"global_step": step, "best_model_checkpoint": best and str(run.kept / f"checkpoint-{best}")}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    mark_whole(folder)
    return folder


def dies(run: Run) -> MergedModel:
    raise OSError("the node is gone")


def training(*steps: int, best: int | None = None, limit: int = 2) -> Callable[[Run], MergedModel]:
    """A training that hands up checkpoints, of which so many stay, and dies."""

    def work(run: Run) -> MergedModel:
        for number, step in enumerate(steps):
            (run.kept / "energy.json").parent.mkdir(exist_ok=True)
            (run.kept / "energy.json").write_text(json.dumps({run.attempt.name: step}))
            for old in [old for old in steps[: max(number + 1 - limit, 0)] if old != best]:
                shutil.rmtree(run.kept / f"checkpoint-{old}", ignore_errors=True)
            assert run.save_checkpoint(checkpoint(run, step, best))
        return dies(run)

    return work


def begin(run: Run, work: Callable[[Run], MergedModel], **given: int) -> None:
    with pytest.raises(OSError, match="the node is gone"):
        run.perform("merge", work, contract=MergedModel, **given)
