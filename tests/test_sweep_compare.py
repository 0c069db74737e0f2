"""The end of a sweep: table, points and pictures of hand-made scores."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Comparison, Emissions, Plan, Point, Score, TrackedRun, TrialScores
from tasks.errors import ContractError
from tasks.registry import tracking
from tasks.schema.sweep_grid import trials_of
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

GRID = {"rows": [200, 800], "epochs": [4, 6], "metrics": ["macro_f1", "roc_auc"], "repeat_rows": 200, "repeat_seeds": [4, 5]}
SPENT = Emissions(0.5, 0.25, 0.5, "world average", False, 1)


@pytest.fixture
def run(home: Path, tiny_base: Path) -> Run:
    """A sweep whose trials are scored: macro F1 is 0.1 for every 200 rows and 0.01 an epoch, and 0.02 more for each seed after 3."""
    document = tiny.recipe_document(tiny_base, tiny_base / "none.csv") | {"sweep": GRID}
    made = tiny.start_at_train(home / "runs/tiny/grid", tiny_base, tiny.tweets(80), document)
    with tracking.tracked(made) as tracked:
        made.write(Plan(trials_of(made.recipe), tracked))
    for trial in made.read(Plan).trials:
        points = []
        for epochs in trial.epochs:
            value = trial.rows / 2000 + epochs / 100 + (trial.seed - 3) / 50
            found = {name: Score(value + more, value - 0.1, value + 0.1) for name, more in (("macro_f1", 0.0), ("roc_auc", 0.3))}
            points.append(Point(epochs, found, TrackedRun(f"{trial.name}-{epochs}", "1", "")))
        made.part = trial.name
        made.write(TrialScores(trial, tracked, tuple(points), 60, 10, 1.0, SPENT))
    return Run(made.folder)


def test_the_table_has_a_line_a_size_and_the_spread_over_seeds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    perform("sweep_compare", run)
    table = run.path(run.read(Comparison).table).read_text(encoding="utf-8")
    assert "60 test rows, seed 3" in table and table.partition("\n\n")[2].strip() in capsys.readouterr().err
    # 200 rows after 4 epochs: 0.14, 0.16 and 0.18 of the three seeds, so mean 0.16 and standard deviation 0.02
    assert [line.split(" | ") for line in table.splitlines() if "|" in line][:5] == [
        ["| macro_f1 after epochs", "4", "6 |"],
        ["|---|---|---|"],
        ["| 800 rows", "0.440", "0.460 |"],
        ["| 200 rows", "0.140", "0.160 |"],
        ["| 200 rows, mean of 3 seeds ± standard deviation", "0.160 ± 0.020", "0.180 ± 0.020 |"],
    ]
    assert "| 800 rows | 0.740 | 0.760 |" in table


def test_every_point_is_a_line_every_metric_a_picture_and_mlflow_has_them(run: Run) -> None:
    perform("sweep_compare", run)
    made = run.read(Comparison)
    with run.path(made.points).open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == (2 + 2) * 2
    first: dict[str, Any] = lines[0]
    assert (first["rows"], first["seed"], first["epochs"], first["mlflow_run"]) == ("800", "3", "4", "rows-800-seed-3-4")
    assert [float(first[f"macro_f1{part}"]) for part in ("", ".low", ".high")] == pytest.approx([0.44, 0.34, 0.54])
    assert list(made.figures) == ["macro_f1 over epochs", "roc_auc over epochs"]
    assert all(run.path(path).read_bytes().startswith(b"\x89PNG") for path in made.figures.values())

    client, run_id = tracking.client(), run.read(Plan).tracked.run_id
    assert {Path(file.path).name for file in client.list_artifacts(run_id, "sweep")} == {
        "macro_f1.png",
        "roc_auc.png",
        "table.md",
        "points.csv",
    }
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["train.energy_kwh"], metrics["train.co2eq_kg"]) == (2.0, 1.0), "what all trainings spent"

    (run.folder / "sweep_trial.rows-200-seed-4.json").unlink()
    with pytest.raises(
        ContractError,
        match=r"sweep_trial.rows-200-seed-4.json: not there \(expected: the manifest of "
        r"sweep_trial.rows-200-seed-4\)",
    ):
        perform("sweep_compare", run, 1)
