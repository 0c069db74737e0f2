"""Runs, data and models of commit 143f866 still load, resume and serve; `fixtures/make_143f866.py` lists them."""

import csv
import json
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import (
    STEPS,
    Adapter,
    Comparison,
    DatasetParts,
    DatasetVersion,
    Download,
    Evaluation,
    Manifest,
    MergedModel,
    Plan,
    Preflight,
    Promotion,
    Publication,
    RegisteredVersion,
    TrialScores,
    ValidRows,
)
from tasks.registry import tracking
from tasks.settings import CHECKOUT, quiet_environment
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated
from tests.support.moved_home import move_artifacts
from tests.support.processes import apart, losses

pytestmark = pytest.mark.trains
ARCHIVE = Path(__file__).parent / "fixtures" / "143f866.tar.xz"
MADE_AT = "/tmp/loraflow-143f866"

CONTRACTS: dict[str, type[Manifest]] = {
    "preflight": Preflight,
    "download": Download,
    "validate": ValidRows,
    "split": DatasetParts,
    "version": DatasetVersion,
    "train": Adapter,
    "merge": MergedModel,
    "evaluate": Evaluation,
    "register": RegisteredVersion,
    "promote": Promotion,
    "push": Publication,
    "plan": Plan,
    "trial": TrialScores,
}
"""Names of the steps in 143f866, with today's contracts."""

TO_VERSION = ("preflight", "download", "validate", "split", "version")
DONE = {
    "finished": (*TO_VERSION, "train", "merge", "evaluate", "register", "promote", "push"),
    "merged": (*TO_VERSION, "train", "merge"),
    "killed": TO_VERSION,
    "grid": (*TO_VERSION, "plan", "trial.rows-24-seed-3"),
}
"""The old runs and the names of their manifests."""


@pytest.fixture
def old(home: Path, tmp_path: Path) -> Path:
    """Unpack the archive as the home folder of this test; returns the folder of the runs."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    move_artifacts(home / "mlflow/mlflow.db", MADE_AT, str(tmp_path))
    return home / "runs/tiny"


def done_steps(folder: Path) -> list[tuple[type[Manifest], str, Path]]:
    """Return contract, part and file of each manifest of a run."""
    names = [(name, *name.partition(".")[::2]) for name in DONE[folder.name]]
    return [(CONTRACTS[step], part, folder / f"{name}.json") for name, step, part in names]


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return time and size of each file that a finished step wrote."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.name not in ("mlflow.url", "progress.json")}


def holds(today: Any, old: Any) -> bool:
    """Whether today's output has all values of the old one; it may have more."""
    if isinstance(old, dict):
        return all(key in today and holds(today[key], value) for key, value in old.items())
    return bool(today == old) if not isinstance(old, list) else len(today) == len(old) and all(map(holds, today, old))


@pytest.mark.parametrize("name", DONE)
def test_every_manifest_is_read_and_a_done_step_returns_at_once(old: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(old / name)
    assert {path.name for path in run.folder.glob("*.json")} - {"progress.json"} == {file.name for _, _, file in done_steps(run.folder)}
    before = states(run.folder)
    for contract, part, file in done_steps(run.folder):
        read = run.read(contract, part)
        assert holds(json.loads(json.dumps(asdict(read))), json.loads(file.read_bytes())["output"]), file.name
        capsys.readouterr()
        assert perform(contract.step, run, part=part) == read
        assert "done already" in capsys.readouterr().err
    assert states(run.folder) == before


def test_an_unfinished_run_goes_on_and_its_model_is_compared_with_the_old_champion(old: Path) -> None:
    run, finished = Run(old / "merged"), Run(old / "finished")
    before = states(run.folder)
    for step in STEPS:
        perform(step, run)
    assert before.items() <= states(run.folder).items()

    evaluation, former = run.read(Evaluation), finished.read(Evaluation)
    assert evaluation.champion_version == 1 and evaluation.champion and evaluation.tuned != evaluation.champion
    for metric, score in former.tuned.items():
        assert evaluation.champion[metric].value == pytest.approx(score.value, abs=1e-6)
        assert evaluation.base[metric].value == pytest.approx(former.base[metric].value, abs=1e-6)
    assert any("champion, version 1" in reason for reason in evaluation.verdict.reasons)

    assert run.read(RegisteredVersion).uri == "models:/tiny/2"
    assert (run.read(Promotion).promoted, run.read(Promotion).predecessor) == (True, 1)
    client = tracking.client()
    assert client.get_registered_model("tiny").aliases == {"champion": 2}
    tags = {number: client.get_model_version("tiny", str(number)).tags for number in (1, 2)}
    assert tags[1]["superseded_by"] == "2" and tags[1]["code"].startswith("143f866")
    assert tags[1].keys() <= tags[2].keys() | {"superseded_by"}
    assert tags[1]["data_hash"] == tags[2]["data_hash"]
    assert "version 2" in Path(run.read(Publication).model_card).read_text()


def test_a_killed_training_goes_on_from_its_checkpoint(old: Path) -> None:
    run, finished = Run(old / "killed"), Run(old / "finished")
    for step in ("train", "merge"):
        perform(step, run)
    adapter, undisturbed = run.read(Adapter), finished.read(Adapter)
    assert (adapter.resumed_from_step, adapter.steps, adapter.rows) == (20, undisturbed.steps, undisturbed.rows)
    assert losses(run) == pytest.approx(losses(finished), abs=1e-3)  # position_ids, added later, change the rounding
    assert apart(run, finished) < 0.01
    assert adapter.emissions and adapter.emissions.attempts == 2
    assert f"runs/{adapter.tracked.run_id}" in (run.get("mlflow.url") or "")
    client = tracking.client()
    assert client.get_run(adapter.tracked.run_id).data.tags[tracking.RUN_TAG] == "tiny/killed"
    assert len(client.search_runs([adapter.tracked.experiment_id], f"tags.`{tracking.RUN_TAG}` = 'tiny/killed'")) == 1


def test_a_sweep_goes_on_with_the_killed_trial_and_compares_both(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, (done, killed) = Run(old / "grid"), ("rows-24-seed-3", "rows-24-seed-4")
    made = json.loads((run.folder / f"trial.{done}.json").read_bytes())["output"]
    kept = json.loads((run.folder / f"trial.{killed}" / "g0-kept" / "scores.json").read_bytes())
    assert run.read(Plan).parts == [done, killed]
    for part in run.read(Plan).parts:
        perform(TrialScores.step, run, part=part)
    printed = capsys.readouterr().err
    assert f"{killed}, epoch 2:" in printed and f"{killed}, epoch 1:" not in printed, "it did not go on from its checkpoint"
    perform(Comparison.step, run)

    assert holds(json.loads(json.dumps(asdict(run.read(TrialScores, done)))), made)
    resumed = run.read(TrialScores, killed)
    assert (resumed.emissions.attempts, resumed.steps) == (2, 6)
    comparison = run.read(Comparison)
    with run.path(comparison.points).open() as stream:
        lines = [(line["seed"], line["epochs"], float(line["macro_f1"])) for line in csv.DictReader(stream)]
    old_points = [point["scores"]["macro_f1"]["value"] for point in made["points"]] + [kept["1"]["macro_f1"]["value"]]
    assert lines[:3] == list(zip("334", "121", old_points, strict=True)) and lines[3][:2] == ("4", "2")
    assert "24 rows, mean of 2 seeds" in run.path(comparison.table).read_text()
    sweep = run.read(Plan).tracked.run_id
    for trial in (made["tracked"]["run_id"], resumed.tracked.run_id):
        assert tracking.client().get_run(trial).data.tags[tracking.PARENT_TAG] == sweep


def test_the_data_version_is_found_unchanged_and_fetched(old: Path) -> None:
    former, killed = Run(old / "finished").read(DatasetVersion), Run(old / "killed")
    unchanged = perform("version", killed, generation=1)
    assert isinstance(unchanged, DatasetVersion)
    assert (unchanged.tag, unchanged.created, unchanged.data_hash) == ("data/tiny/v1", False, former.data_hash)
    assert unchanged.git_commit == former.git_commit

    recipe = killed.recipe
    run = Run(old / "older")
    run.folder.mkdir()
    run.freeze(recipe.model_copy(update={"run": recipe.run.model_copy(update={"data": "v1"})}))
    fetched = perform("version", run)
    assert isinstance(fetched, DatasetVersion)
    assert (fetched.tag, fetched.created, fetched.data_hash) == (former.tag, False, former.data_hash)
    assert {name: (part.rows, part.labels) for name, part in fetched.parts.items()} == {
        name: (part.rows, part.labels) for name, part in former.parts.items()
    }
    for name, part in fetched.parts.items():
        assert run.path(part.path).read_bytes() == (old / "finished" / former.parts[name].path).read_bytes()


SERVE = """
import json, sys, mlflow
model = mlflow.pyfunc.load_model("models:/tiny/1")
table = model.predict(%r)
assert sys.modules["tasks"].__file__.endswith("/artifacts/code/tasks/__init__.py"), sys.modules["tasks"].__file__
print(json.dumps({"columns": list(table.columns), "rows": table.values.tolist()}))
"""
SERVE_WITH_TODAYS_CODE = """
import json, sys, mlflow, tasks.kinds.base, tasks.registry.tracking
model = mlflow.pyfunc.load_model("models:/tiny/1")
print(json.dumps(model.predict(%r).values.tolist()))
"""


@pytest.mark.parametrize("place", ["elsewhere", "in the checkout"])
def test_the_old_champion_serves_with_its_own_code_and_answers_as_ever(old: Path, tmp_path: Path, place: str) -> None:
    expected = json.loads((tmp_path / "predictions.json").read_bytes())
    uri = f"sqlite:///{tmp_path}/home/mlflow/mlflow.db"
    if place == "elsewhere":
        printed = evaluated.outside(evaluated.PREDICT % expected["texts"], tmp_path, MLFLOW_TRACKING_URI=uri)
    else:
        environment = {**quiet_environment(), "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-c", SERVE % expected["texts"]]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    answers = json.loads(printed.splitlines()[-1])
    assert answers["columns"] == expected["columns"]
    for answer, row in zip(answers["rows"], expected["rows"], strict=True):
        assert answer[0] == row[0] and answer[1:] == pytest.approx(row[1:], abs=1e-5)


def test_the_old_champion_answers_where_todays_code_was_imported_first(old: Path, tmp_path: Path) -> None:
    """MLflow then finds today's modules under the names that the stored code imports."""
    stored = json.loads((tmp_path / "predictions.json").read_bytes())
    plain = [(text, row) for text, row in zip(stored["texts"], stored["rows"], strict=True) if "<" not in text]  # no control tokens today
    environment = {**quiet_environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/home/mlflow/mlflow.db", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", SERVE_WITH_TODAYS_CODE % [text for text, _ in plain]]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for answer, (_, row) in zip(json.loads(done.stdout.splitlines()[-1]), plain, strict=True):
        assert answer[0] == row[0] and answer[1:] == pytest.approx(row[1:], abs=1e-5)
