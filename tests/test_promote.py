"""`promote`: who becomes champion, by whose word, and what the tags tell of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from tasks.cli import app
from tasks.contracts import Approval, DatasetVersion, Evaluation, Parity, Promotion, RegisteredVersion
from tasks.errors import ContractError, GateError, ServiceError
from tasks.registry import tracking
from tasks.settings import CHECKOUT, quiet_environment
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated
from tests.support.loopback import free_port


@pytest.fixture(scope="session")
def blank_registry(shared_tmp: Path) -> Path:
    """MLflow's database without content; to create its tables takes seconds, a copy takes none."""
    database = shared_tmp / "blank" / "mlflow.db"
    with FileLock(shared_tmp / "blank.lock"), pytest.MonkeyPatch.context() as patch:
        if not database.exists():
            patch.setenv("LORAFLOW_MLFLOW_URI", f"sqlite:///{database.with_suffix('.new')}")
            tracking.client()
            database.with_suffix(".new").rename(database)
    return database


@pytest.fixture
def start(make_run: Callable[..., Run], tiny_document: dict[str, Any], home: Path, blank_registry: Path) -> Callable[..., Run]:
    """A run whose model is registered as the next version."""
    (home / "mlflow").mkdir(parents=True)
    shutil.copyfile(blank_registry, home / "mlflow" / "mlflow.db")

    def make(run_id: str, policy: str = "auto", macro_f1: float = 0.9, data_hash: str = "a.dir", **changes: Any) -> Run:
        run = make_run(tiny_document, run_id, run__promotion=policy)
        evaluated.evaluate(run, macro_f1, **changes)
        run.write(DatasetVersion("data/tiny/v1", 1, True, data_hash, "0" * 40, "made by hand", {}, None))
        client = tracking.client()
        if not client.search_registered_models("name = 'tiny'"):
            client.create_registered_model("tiny")
        scores = {"macro_f1": macro_f1, "accuracy": macro_f1 + 0.02}
        tags = {"loraflow.run": run.id, "data_hash": data_hash, "scores": json.dumps(scores)}
        version = int(client.create_model_version("tiny", f"file://{run.folder}", tags=tags).version)
        client.set_registered_model_alias("tiny", "challenger", str(version))
        again = Run(run.folder)
        again.read(Evaluation)  # as register does, so that a new evaluation asks for a new registration
        again.write(RegisteredVersion("tiny", version, f"models:/tiny/{version}", "", tags))
        return Run(run.folder)

    return make


def do(run: Run, generation: int = 0) -> Promotion:
    found = perform("promote", run, generation)
    assert isinstance(found, Promotion)
    return found


def approve(run: Run, approved: bool = True, reason: str = "looks right") -> None:
    arguments = ["approve", "--run", str(run.folder), "--by", "Ada", "--reason", reason]
    done = CliRunner().invoke(app, arguments + ([] if approved else ["--decline"]))
    assert done.exit_code == 0, done.output


def champion() -> int | None:
    alias = tracking.client().get_registered_model("tiny").aliases.get("champion")
    return None if alias is None else int(alias)


def tags(version: int) -> dict[str, str]:
    return dict(tracking.client().get_model_version("tiny", str(version)).tags)


def test_what_the_gate_passed_becomes_champion(start: Callable[..., Run]) -> None:
    first = do(start("one", macro_f1=0.8))
    assert first == Promotion(True, "auto", 1, None, "macro_f1 0.800 >= 0.500 (floor)")
    second = do(start("two", champion=evaluated.scores(0.8), champion_version=1))
    assert (second.promoted, second.version, second.predecessor, champion()) == (True, 2, 1, 2)
    found = tags(2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["promoted_at"])
    assert (found["promoted_by"], found["predecessor"], found["promotion"]) == ("the gate", "1", "promoted")
    assert found["promotion_reason"] == "macro_f1 0.900 >= 0.500 (floor)"
    assert tags(1)["superseded_by"] == "2" and tags(1)["predecessor"] == "none"
    assert tracking.client().get_registered_model("tiny").aliases == {"champion": 2}


def test_what_the_gate_refused_does_not(start: Callable[..., Run]) -> None:
    do(start("one"))
    run = start("two", verdict=evaluated.refused("macro_f1 0.400 < 0.500 (floor)"), champion_version=1)
    expected = (
        "tiny version 2: the gate refused it (expected: every check to hold). Fix: look at evaluate's report, then change data or recipe\n"
        "  refused: macro_f1 0.400 < 0.500 (floor)\n  no champion yet to compare with"
    )
    with pytest.raises(GateError) as caught:
        do(run)
    assert str(caught.value) == expected
    assert champion() == 1 and tags(2)["promotion"] == "refused by the gate" and not (run.folder / "promote.json").exists()


@pytest.mark.parametrize(("now", "passes"), [(0.85, True), (0.9, True), (0.95, False)])
def test_a_champion_that_came_after_evaluate_is_compared_by_its_own_scores(start: Callable[..., Run], now: float, passes: bool) -> None:
    late = start("late", macro_f1=0.9)
    do(start("early", macro_f1=now))
    if passes:
        assert do(late).predecessor == 2
        assert f"macro_f1 0.900 >= {now:.3f} (champion, version 2)" in tags(1)["promotion_reason"]
    else:
        with pytest.raises(GateError, match=r"clear evaluate to compare with the present champion(.|\n)*refused: macro_f1 0.900 < 0.950"):
            do(late)
        assert champion() == 2


def test_a_new_champion_of_other_data_needs_another_evaluation(start: Callable[..., Run]) -> None:
    late = start("late")
    do(start("early", macro_f1=0.6, data_hash="b.dir"))
    with pytest.raises(GateError, match=r"clear evaluate(.|\n)*no comparison with the champion, version 2: .* not of this data version"):
        do(late)


def test_a_champion_that_is_gone_is_no_obstacle(start: Callable[..., Run]) -> None:
    do(start("one"))
    run = start("two", champion=evaluated.scores(0.8), champion_version=1)
    tracking.client().delete_registered_model_alias("tiny", "champion")
    assert do(run).predecessor is None and champion() == 2


def test_never_means_no(start: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = start("one", "never")
    assert do(run) == Promotion(False, "never", 1, None, "run.promotion is never")
    assert champion() is None and tags(1)["promotion"] == "not asked for"
    said = capsys.readouterr().err
    assert "promote: version 1 was not promoted (run.promotion is never), so the aliases" in said and "with --promote, or Airflow" in said
    do(run)
    said = capsys.readouterr().err
    assert "promote: done already, so nothing is done now; to repeat it, clear the task, or add --generation 1" in said
    assert "promote: version 1 was not promoted (run.promotion is never)" in said


def test_manual_waits_for_a_reviewer(start: Callable[..., Run]) -> None:
    run = start("one", "manual")
    message = (
        r"approve.json: not there \(expected: a reviewer's answer, since run.promotion is manual\)\. Fix: answer "
        r"with loraflow approve --run "
    )
    with pytest.raises(ContractError, match=message):
        do(run)
    approve(run)
    assert do(run) == Promotion(True, "manual", 1, None, "looks right")
    assert tags(1)["promoted_by"] == "Ada" and champion() == 1


def test_a_reviewer_s_no_is_kept(start: Callable[..., Run]) -> None:
    run = start("one", "manual")
    approve(run, approved=False, reason="too few rows")
    assert do(run) == Promotion(False, "manual", 1, None, "declined by Ada: too few rows")
    assert tags(1)["promotion"] == "declined by Ada: too few rows" and champion() is None


@pytest.mark.parametrize(("yes", "told"), [(True, "no reason given"), (False, "declined by Ada: no reason given")])
def test_a_reviewer_need_not_give_a_reason(start: Callable[..., Run], yes: bool, told: str) -> None:
    run = start("one", "manual")
    approve(run, approved=yes, reason="")
    assert do(run).reason == told and told in (tags(1).get("promotion_reason"), tags(1)["promotion"])


def test_a_reviewer_may_overrule_a_floor_by_name(start: Callable[..., Run]) -> None:
    run = start("one", "manual", verdict=evaluated.refused("macro_f1 0.400 < 0.500 (floor)"))
    approve(run, reason="rows are harder now")
    assert do(run).reason == "rows are harder now (against the gate: refused: macro_f1 0.400 < 0.500 (floor))"
    assert tags(1)["promoted_by"] == "Ada"


def test_a_reviewer_may_not_overrule_parity(start: Callable[..., Run]) -> None:
    run = start("one", "manual", parity=Parity(16, 15, 0.3), verdict=evaluated.refused("merged model and adapter: same label on 15 of 16"))
    approve(run)
    with pytest.raises(GateError, match="same label on 15 of 16"):
        do(run)
    assert champion() is None


def test_a_reviewer_s_yes_does_not_hold_against_a_champion_that_came_later(start: Callable[..., Run]) -> None:
    run = start("late", "manual", macro_f1=0.9)
    approve(run)
    do(start("early", macro_f1=0.95))
    with pytest.raises(GateError, match="clear evaluate"):
        do(run)


def test_a_yes_to_an_earlier_evaluation_does_not_count(start: Callable[..., Run]) -> None:
    run = start("one", "manual")
    approve(run)
    evaluated.evaluate(run, 0.95)
    again = Run(run.folder)
    again.read(Evaluation)
    again.write(RegisteredVersion("tiny", 1, "models:/tiny/1", "", {}))
    with pytest.raises(
        ContractError, match=r"answers an earlier evaluation \(expected: an answer to this one\)\. Fix: answer with loraflow approve"
    ):
        do(run)


def test_a_registration_of_an_earlier_evaluation_does_not_count(start: Callable[..., Run]) -> None:
    run = start("one")
    evaluated.evaluate(run, 0.2)
    with pytest.raises(ContractError, match=r"made of an earlier evaluation or model \(expected: this one's\)\. Fix: run register again"):
        do(run)


def test_an_approval_names_its_reviewer(start: Callable[..., Run]) -> None:
    run = start("one", "manual")
    done = CliRunner().invoke(app, ["approve", "--run", str(run.folder), "--by", " ", "--reason", "x"])
    assert isinstance(done.exception, ContractError)
    assert "--by: ' ' (expected: a reviewer's name). Fix: give yours" in str(done.exception) and not run.has(Approval)


KILL = """
import os, signal, sys
from pathlib import Path
import mlflow
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
name, moment = sys.argv[2].split(":")
real = getattr(mlflow.MlflowClient, name)
def killed(*arguments, **options):
    if moment == "after":
        real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(mlflow.MlflowClient, name, killed)
perform("promote", Run(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    "call",
    [
        "set_model_version_tag:after",
        "set_registered_model_alias:before",
        "set_registered_model_alias:after",
        "delete_registered_model_alias:after",
    ],
)
def test_a_killed_promotion_ends_as_an_undisturbed_one(start: Callable[..., Run], call: str) -> None:
    do(start("one", macro_f1=0.8))
    run = start("two", champion=evaluated.scores(0.8), champion_version=1)
    command = [sys.executable, "-c", KILL, str(run.folder), call]
    done = subprocess.run(command, env={**quiet_environment(), "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert do(run) == Promotion(True, "auto", 2, 1, "macro_f1 0.900 >= 0.500 (floor)")
    assert (champion(), tags(2)["predecessor"], tags(1)["superseded_by"]) == (2, "1", "2")
    assert tracking.client().get_registered_model("tiny").aliases == {"champion": 2}


def test_a_cleared_promotion_of_the_champion_changes_nothing(start: Callable[..., Run]) -> None:
    do(start("one", macro_f1=0.8))
    run = start("two", champion=evaluated.scores(0.8), champion_version=1)
    first, before = do(run), tags(2)
    assert do(run, generation=1) == first and tags(2) == before


def test_a_former_champion_that_returns_is_not_superseded(start: Callable[..., Run]) -> None:
    one = start("one", macro_f1=0.8)
    do(one)
    do(start("two", macro_f1=0.8, champion=evaluated.scores(0.8), champion_version=1))
    again = do(one, generation=1)
    assert (again.predecessor, champion()) == (2, 1)
    assert "superseded_by" not in tags(1) and tags(2)["superseded_by"] == "1"


def test_no_mlflow_is_a_fault_that_a_retry_may_mend(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("one")
    port = free_port()
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=f"MLflow at http://127.0.0.1:{port}: no answer"):
        do(run)


def test_promote_does_not_import_torch(start: Callable[..., Run]) -> None:
    run = start("one")
    code = """
import sys
from pathlib import Path
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
perform("promote", Run(Path(sys.argv[1])))
print([name for name in ("torch", "transformers", "peft") if name in sys.modules])
"""
    command, environment = [sys.executable, "-c", code, str(run.folder)], {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1:] == ["[]"] and run.has(Promotion), done.stderr
