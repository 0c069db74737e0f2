"""Whole runs in a bucket, every step on a machine that has seen nothing of the run: the same results as in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import STEPS, Adapter, Evaluation, Publication
from tasks.schema import load as recipes
from tasks.settings import settings
from tasks.training.energy import LEDGER
from tasks.workspace.location import run_folder
from tasks.workspace.perform import perform
from tasks.workspace.progress import read_position
from tasks.workspace.run import Run
from tests.support import processes
from tests.support.processes import difference, kill, until, weights
from tests.support.s3_server import S3

pytestmark = pytest.mark.trains

TO_EVALUATE = STEPS[: STEPS.index("evaluate") + 1]
SMALL = {"train.max_steps": 60, "run.promotion": "auto"}


def started(runs: Path | str, document: dict[str, Any], run_id: str = "one") -> Run:
    run = Run(run_folder(runs, "tiny", run_id))
    run.freeze(recipes.resolve(document, "full", SMALL))
    return run


def test_a_whole_run_in_a_bucket_ends_as_in_a_folder_and_a_killed_training_goes_on_elsewhere(
    s3: S3, home: Path, tiny_document: dict[str, Any], new_machine: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = started(settings().runs_folder, tiny_document)
    for step in TO_EVALUATE:
        perform(step, inside)
    monkeypatch.setenv("LORAFLOW_HOME", str(home.with_name("other-home")))
    monkeypatch.setenv("LORAFLOW_RUNS", s3.url)
    assert settings().runs_folder == s3.url
    started(settings().runs_folder, tiny_document)
    for step in STEPS:
        s3.heal()
        scratch = new_machine()
        perform(step, Run(f"{s3.url}/tiny/one"))
        assert not [path for path in scratch.rglob("*") if path.is_file() and path.suffix != ".lock"], step
        if step == "train":
            fetched = {asked.partition("/workspace/")[2].partition("?")[0] for asked in s3.asked() if "bytes=" in asked}
            assert {path.split("/")[2] for path in fetched} == {"download", "version"}
            assert [path.rpartition("/")[2] for path in fetched if "/version/" in path] == ["train.parquet"]
    run = Run(f"{s3.url}/tiny/one")
    assert run.read(Evaluation).tuned == inside.read(Evaluation).tuned
    assert run.read(Evaluation).parity == inside.read(Evaluation).parity
    assert run.read(Adapter).final_loss == inside.read(Adapter).final_loss
    assert (Path(run.read(Publication).model) / "model.safetensors").exists() and read_position(run)
    beside = {path.split("/")[2] for path in s3.objects("tiny/one/")}
    files = {f"{step}.{kind}" for step in STEPS for kind in ("json", "claim")}
    assert beside - set(STEPS) == {"recipe.yaml", "progress.json", "mlflow.url"} | files
    assert not [path for path in s3.objects() if b"test-planted-secret" in s3.read(path)]
    killed_and_gone_on(s3, run, new_machine)


def killed_and_gone_on(s3: S3, run: Run, new_machine: Callable[[], Path]) -> None:
    """A training that is asked for anew, killed on one machine, ends on another as the first one did."""
    undisturbed, expected = run.read(Adapter), weights(run)  # the next generation removes them

    new_machine()
    with processes.step("train", run, "--generation", "1") as process:
        until(lambda: any(path.endswith("checkpoint-10.listing") for path in s3.objects("tiny/one/train/g1-kept/")), process)
        kill(process)
    assert run.generation("train") is None
    assert any(path.endswith(f"/{LEDGER}") for path in s3.objects("tiny/one/train/g1-kept/"))

    new_machine()
    s3.heal()
    resumed = perform("train", Run(run.uri), generation=1)
    assert isinstance(resumed, Adapter) and resumed.resumed_from_step >= 10
    assert resumed.final_loss == pytest.approx(undisturbed.final_loss, abs=1e-6)
    assert resumed.emissions and resumed.emissions.attempts == 2
    assert difference(expected, weights(Run(run.uri))) < 1e-6
    fetched = {path for asked in s3.asked() if "bytes=" in asked and "/checkpoint-" in (path := asked.partition("?")[0])}
    assert {path.split("/checkpoint-")[1].split("/")[0] for path in fetched} == {str(resumed.resumed_from_step)}, "the last one alone"
