"""`loraflow run`: a trial leaves champion, challenger and publications alone; --promote does what the recipe says."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.cli import main
from tasks.registry import tracking
from tasks.settings import CHECKOUT

pytestmark = pytest.mark.trains


@pytest.fixture
def recipe(home: Path, tiny_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that is promoted by itself, after few steps."""
    document = {
        **tiny_document,
        "train": {**tiny_document["train"], "max_steps": 4},
        "evaluate": {"parity_rows": 4, "resamples": 100},
        "gate": {"metric": "macro_f1", "beats_base": False, "margin": 1.0},
        "run": {"promotion": "auto", "push": True},
    }
    path = home.parent / "recipes" / "tiny.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    monkeypatch.setenv("LORAFLOW_RECIPES", str(path.parent))
    monkeypatch.delenv("LORAFLOW_MIRROR", raising=False)
    return path


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Done]]:
    """`loraflow run tiny`, whole, in this process: it has the libraries imported."""
    handler = signal.getsignal(signal.SIGTERM)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # the command puts its own over them

    def done(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["loraflow", "run", "tiny", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Done(end.value.code or 0, *capfd.readouterr())

    yield done
    signal.signal(signal.SIGTERM, handler)


def at_a_shell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "tasks", "run", "tiny", *arguments]
    return subprocess.run(argv, cwd=CHECKOUT, env=dict(os.environ), capture_output=True, text=True, timeout=500)


def published(home: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in (home / "hub").rglob("*") if path.is_file()}


@pytest.mark.timeout(1200)
def test_a_trial_leaves_what_a_real_run_made(recipe: Path, home: Path, run: Callable[..., Done]) -> None:
    real = run("--run-id", "real", "--promote")
    assert real.returncode == 0, real.stderr[-3000:]
    assert "run: tiny/real: the gate decides whether the new version becomes the champion" in real.stderr
    assert "auto: version 1 is the champion, there was none before it" in real.stdout and f"{home}/hub/loraflow/tiny" in real.stdout
    client = tracking.client()
    client.set_registered_model_alias("tiny", "challenger", "1")  # as another run's version would have it
    before, files = client.get_registered_model("tiny").aliases, published(home)
    assert before == {"champion": 1, "challenger": 1} and files

    trial = run("--run-id", "trial", "--set", "train.rows=50")
    assert trial.returncode == 0, trial.stderr[-3000:]
    assert client.get_registered_model("tiny").aliases == before and published(home) == files
    said = " ".join(trial.stdout.split())
    for expected in (
        "Data set data/tiny/v1 (there already), hash ",
        "Rows rejected 0",
        "Trained 50 rows, 4 steps",
        "Gate passed",
        "Model in MLflow tiny version 2 ",
        "Promotion version 2 was not promoted (run.promotion is never), so the aliases champion and challenger, and what is published,",
        f"Model report {home}/runs/tiny/trial/evaluate/g0-a1/report.html",
        f"Training rows {home}/runs/tiny/trial/train/g0-a1/rows.parquet",
        f"Run {home}/runs/tiny/trial",
        "metric tuned base model majority class champion (version 1)",
    ):
        assert expected in said, trial.stdout
    assert "run: tiny/trial: promotes and publishes nothing; with --promote it does" in trial.stderr
    assert (
        "skipped: tiny/trial: version 2 was not promoted (run.promotion is never), so nothing is published. Fix: to promote" in trial.stderr
    )
    assert "is no setting" not in trial.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "run.promotion=auto"], "--set: run.promotion is auto and run.push false without --promote (expected: never and false)"),
        (["--set", "run.promotion=manual"], "run.promotion is manual"),
        (["--set", "run.push=true"], "run.promotion is never and run.push true without --promote"),
        (["--set", "run={promotion: auto, push: true}"], "run.promotion is auto and run.push true without --promote"),
        (
            ["--promote", "--set", "run.promotion=never"],
            "--promote: the recipe's run.promotion is never (expected: auto or manual). Fix: add --set",
        ),
    ],
)
def test_what_contradicts_is_refused_before_anything_is_done(
    recipe: Path, home: Path, run: Callable[..., Done], arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 64 and message in done.stderr, done.stderr
    assert not home.exists()


def test_a_run_that_fails_shows_how_far_it_came_before_the_fault(recipe: Path, home: Path) -> None:
    """At a real shell."""
    done = at_a_shell("--run-id", "lost", "--set", f"data.source.file={home}/none.csv", "--set", "run.push=false")
    assert done.returncode == 68 and f"Run {home}/runs/tiny/lost" in " ".join(done.stdout.split()), done.stdout
    assert "PreflightError" in done.stderr
