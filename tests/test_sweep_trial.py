"""One training of a sweep: what is scored when, that it outlives a kill, and how MLflow shows it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.contracts import Plan, TrialScores
from tasks.errors import ContractError
from tasks.evaluation import scoring
from tasks.registry import tracking
from tasks.registry.tracking import PARENT_TAG
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains

SWEEP = {"rows": [24], "epochs": [1, 2], "metrics": ["macro_f1"], "repeat_rows": 24, "repeat_seeds": [4]}
NAME = "rows-24-seed-3"

Start = Callable[..., Run]


@pytest.fixture
def start(home: Path, tiny_base: Path) -> Start:
    """Start a sweep and plan it."""

    def begin(run_id: str, **changes: Any) -> Run:
        document = tiny.recipe_document(tiny_base, tiny_base / "none.csv")
        document |= {"sweep": SWEEP | changes}
        document["train"] |= {"save_steps": 2}
        document["evaluate"]["resamples"] = 100
        run = tiny.start_at_train(home / "runs/tiny" / run_id, tiny_base, tiny.tweets(120), document)
        perform("sweep_plan", run)
        return run

    return begin


def scores(run: Run, part: str = NAME) -> dict[int, dict[str, Any]]:
    return {point.epochs: asdict(point)["scores"] for point in run.read(TrialScores, part).points}


def test_a_trial_scored_on_the_way_is_the_shorter_training(start: Start) -> None:
    both, short = start("both"), start("short", epochs=[1])
    for run in (both, short):
        perform("sweep_trial", run, part=NAME)
    assert list(scores(both)) == [1, 2] and scores(both)[1] == scores(short)[1] != scores(both)[2]
    made = both.read(TrialScores, NAME)
    assert (made.trial.rows, made.steps, made.test_rows) == (24, 6, 60)
    assert made.emissions.energy_kwh > 0
    assert made.rows_file and pq.read_table(both.path(made.rows_file))["passes"].to_pylist() == [2] * 24

    perform("sweep_trial", both, part="rows-24-seed-4")
    assert scores(both, "rows-24-seed-4") != scores(both)

    client = tracking.client()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {run.data.tags[tracking.RUN_TAG]: run for run in client.search_runs([experiment.experiment_id])}
    sweep, training, point = (runs[f"tiny/both{below}"] for below in ("", f"/{NAME}", f"/{NAME}/epochs-1"))
    assert sweep.info.run_id == both.read(Plan).tracked.run_id and PARENT_TAG not in sweep.data.tags
    assert training.data.tags[PARENT_TAG] == sweep.info.run_id and point.data.tags[PARENT_TAG] == training.info.run_id
    assert (training.data.params["train.rows"], training.data.params["train.num_train_epochs"]) == ("24", "2.0")
    assert point.data.params == {"train.rows": "24", "train.seed": "3", "train.num_train_epochs": "1"}
    assert point.data.metrics["tuned.macro_f1"] == scores(both)[1]["macro_f1"]["value"]
    assert training.info.status == point.info.status == "FINISHED"
    history = client.get_metric_history(training.info.run_id, "tuned.macro_f1")
    assert [(entry.step, entry.value) for entry in history] == [
        (3, scores(both)[1]["macro_f1"]["value"]),
        (6, scores(both)[2]["macro_f1"]["value"]),
    ]


def test_a_killed_trial_goes_on_and_keeps_what_was_scored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, killed = start("undisturbed"), start("killed")
    perform("sweep_trial", undisturbed, part=NAME)
    said, calls = scoring.predict, []

    def dies_at_the_second(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return said(*args, **options)

    monkeypatch.setattr(scoring, "predict", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        perform("sweep_trial", killed, part=NAME)
    kept = killed.folder / f"sweep_trial.{NAME}" / "g0-kept"
    assert (kept / "checkpoint-4").is_dir() and (kept / "scores.json").exists()

    perform("sweep_trial", killed, part=NAME)
    assert len(calls) == 3, "after one epoch it was scored before the kill"
    assert scores(killed) == scores(undisturbed)
    assert not kept.exists()
    perform("sweep_trial", killed, part=NAME)
    assert len(calls) == 3, "a trial that is done returns at once"
    perform("sweep_plan", killed, 1)
    assert killed.generation("sweep_trial", NAME) is None, "another plan makes the trials anew"


def test_a_trial_that_nobody_planned_is_refused(start: Start) -> None:
    run = start("named")
    for part, message in (
        (
            "rows-9-seed-1",
            r"tiny/named: sweep_trial: 'rows-9-seed-1' is none of the plan \(expected: one of rows-24-seed-3, .*\)\. "
            r"Fix: name it with --part",
        ),
        ("", r"tiny/named: sweep_trial: '' is none of the plan"),
        ("../x", r"tiny/named: sweep_trial: part is '../x' \(expected: letters, digits and -\)"),
    ):
        with pytest.raises(ContractError, match=message):
            perform("sweep_trial", run, part=part)
