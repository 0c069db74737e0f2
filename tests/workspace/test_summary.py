"""The table at a run's end, and the sentences that say what became of its version."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks import cli
from tasks.contracts import (
    STEPS,
    Adapter,
    Approval,
    BaseModelFiles,
    DatasetParts,
    DatasetVersion,
    Download,
    Evaluation,
    Parity,
    Part,
    Promotion,
    Publication,
    RegisteredVersion,
    Score,
    TrackedRun,
    ValidRows,
    Verdict,
)
from tasks.workspace import outcome
from tasks.workspace.run import Run
from tasks.workspace.summary import summary
from tests.support import tiny


def text_of(run: Run) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(summary(run))
    return console.export_text()


def finished_run(run: Run, *, passed: bool) -> Run:
    """A run whose manifests are made by hand."""
    score = {"macro_f1": Score(0.61, 0.55, 0.66), "accuracy": Score(0.62, 0.57, 0.67)}
    low = {"macro_f1": Score(0.31, 0.25, 0.36), "accuracy": Score(0.32, 0.27, 0.37)}
    parts = {"train": Part("train.parquet", 90, {}), "test": Part("test.parquet", 60, {})}
    run.write(Download(BaseModelFiles("a/b", "0", "base"), None))
    run.write(ValidRows("rows", "rejects", "validate/report.html", 160, 150, {"not UTF-8": 9, "no text": 1}))
    run.write(DatasetParts("parts", parts, {"duplicate": 3}))
    run.write(DatasetVersion("data/tiny/v2", 2, True, "abc.dir", "0" * 40, "/repo.git", parts, True))
    run.write(Adapter("adapter", TrackedRun("r", "1", "http://ui/r"), 90, 34, 3.0, 0.51, 10, 1000, 0, 61.0, 0))
    verdict = Verdict(passed, ("macro_f1 0.610, at least 0.5 asked",))
    run.write(Evaluation(60, score, low, low, score, 1, Parity(16, 16, 1e-6), verdict, "p", {}, "evaluate/report.html"))
    run.write(RegisteredVersion("tiny", 2, "models:/tiny/2", "http://ui/tiny/2"))
    if passed:
        run.write(Promotion(True, "auto", 2, 1, "better than version 1"))
        run.write(Publication("/hub/tiny-adapter", "/hub/tiny", "/hub/tiny/README.md"))
    return run


def test_the_table_says_what_came_of_a_run(make_run: Callable[..., Run], tmp_path: Path) -> None:
    text = text_of(finished_run(make_run(tiny.recipe_document(tmp_path, tmp_path / "rows.csv")), passed=True))
    for expected in (
        "Rows read        160",
        "10: not UTF-8 9, no text 1",
        "duplicate 3",
        "data/tiny/v2 (new, bit by bit what data.dvc pins), hash abc.dir",
        "train 90, test 60 rows",
        "90 rows, 34 steps in 1:01, loss 0.510",
        "the same on 16 of 16 rows",
        "tiny version 2 (champion)",
        "auto: version 2 is the champion, version 1 was before it",
        "validate/report.html",
        "evaluate/report.html",
        "/hub/tiny/README.md",
        "train 0:00",
        "The same 60 test rows, 95% intervals",
        "champion (version 1)",
    ):
        assert expected in text, text
    row = next(line for line in text.splitlines() if re.match(r" *macro_f1 {2,}", line))
    assert re.split(r"\s{2,}", row.strip()) == [
        "macro_f1", "0.610 (0.550 to 0.660)", "0.310 (0.250 to 0.360)", "0.310 (0.250 to 0.360)", "0.610 (0.550 to 0.660)",
    ]  # fmt: skip


def test_the_table_of_a_refused_run_has_its_figures_and_no_champion(make_run: Callable[..., Run], tmp_path: Path) -> None:
    text = text_of(finished_run(make_run(tiny.recipe_document(tmp_path, tmp_path / "rows.csv")), passed=False))
    assert "refused" in text and "macro_f1 0.610, at least 0.5 asked" in text
    assert "tiny version 2" in text and "(champion)" not in text and "Pushed" not in text


def test_the_table_of_a_run_that_failed_at_once_names_its_folder(home: Path) -> None:
    assert str(home / "runs" / "tiny" / "x") in text_of(Run(home / "runs" / "tiny" / "x"))


def test_a_label_in_brackets_is_no_style(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = finished_run(make_run(tiny.recipe_document(tmp_path, tmp_path / "rows.csv")), passed=True)
    score, evaluation = Score(0.5, 0.4, 0.6), run.read(Evaluation)
    run.write(replace(evaluation, tuned={"f1_[bold]": score}, base={"f1_[bold]": score}))
    assert "f1_[bold]   0.500" in text_of(run)


def started(make_run: Callable[..., Run], tmp_path: Path, **overrides: Any) -> Run:
    return make_run(tiny.recipe_document(tmp_path, tmp_path / "rows.csv"), **overrides)


def words(text: str) -> str:
    """The text without the table's lines and columns."""
    return " ".join(text.split())


def test_the_table_of_a_trial_says_what_stays_as_it_was_and_how_to_promote(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = finished_run(started(make_run, tmp_path, run__promotion="never", run__push=False), passed=False)
    run.write(Promotion(False, "never", 2, None, "run.promotion is never"))
    expected = (
        "Promotion version 2 was not promoted (run.promotion is never), so the aliases champion and challenger, and what is published, "
        "stay as they were; to promote and publish, use loraflow run with --promote, or Airflow's form with promotion auto or manual"
    )
    assert expected in words(text_of(run))


def test_the_table_of_a_promoted_version_says_why_it_was_not_published(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = finished_run(started(make_run, tmp_path, run__push=False), passed=False)
    run.write(Promotion(True, "auto", 2, None, "good"))
    said = words(text_of(run))
    assert "Promotion auto: version 2 is the champion, there was none before it" in said
    assert (
        "Pushed run.push is off, so nothing is published. Fix: to publish, start a run with run.push true (in Airflow's form: push)" in said
    )


def test_a_run_that_waits_for_a_reviewer_ends_before_promote_with_the_commands(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(started(make_run, tmp_path, run__promotion="manual"), passed=False)
    done: list[str] = []
    monkeypatch.setattr(cli, "_perform", lambda step, run: done.append(step))
    cli._perform_all(run)
    waits = (
        f"version 2 waits for a reviewer's answer (run.promotion is manual); to answer, use loraflow approve --run {run.uri} --by NAME "
        f"--reason TEXT (to say no, add --decline), then loraflow promote --run {run.uri} and loraflow push --run {run.uri}"
    )
    assert done == list(STEPS[:-2]) and f"run: {waits}" in capsys.readouterr().err
    assert "Promotion" in text_of(run) and "waits for a reviewer's answer" in words(text_of(run))

    again, done[:] = Run(run.folder), []
    again.write(Approval(True, "Ada", "looks right"))
    cli._perform_all(again)
    assert done == list(STEPS)
    declined = outcome.sentence(again, Promotion(False, "manual", 2, None, "declined by Ada: too few rows"))
    assert declined and declined.startswith("version 2 was not promoted (declined by Ada: too few rows), so the champion stays as it was; ")
    assert f"loraflow approve --run {run.uri}" in declined
