"""kill -9 of each step in the middle of its work, followed by the retry, ends in the state of an undisturbed run."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import STEPS, Adapter, DatasetParts, DatasetVersion, Evaluation, MergedModel, Promotion, Publication, RegisteredVersion
from tasks.registry import tracking
from tasks.workspace.checkpoint_files import newest_whole
from tasks.workspace.perform import perform
from tasks.workspace.progress import read_position
from tasks.workspace.run import Run
from tests.support import processes
from tests.support.processes import kill, until

pytestmark = pytest.mark.trains

WORK_SECONDS = 0.2
"""How long a step works before it is killed, once it says that it does."""

UNFINISHED = "import time; from tasks.workspace.run import Run; Run.write = lambda *_, **__: time.sleep(600)"
"""On tiny data a step is soon done: the one to be killed never comes to write its manifest."""


SILENT = ("preflight", "download", "promote")
"""Steps that show no progress here."""


def works(run: Run, step: str) -> bool:
    """Whether the step's attempt has begun, and its work where it shows any; a training has a checkpoint."""
    if step == "train":
        return newest_whole(run.folder / "train" / "g0-kept") is not None
    position = read_position(run)
    return any((run.folder / step).glob("g0-a*")) and (step in SILENT or (position is not None and position.step == step))


def kill_in_the_middle(run: Run, step: str) -> None:
    """Start a step and kill it at work."""
    with processes.step(step, run, code=UNFINISHED) as process:
        until(lambda: works(run, step), process)
        time.sleep(WORK_SECONDS)
        kill(process)


def state(run: Run) -> dict[str, Any]:
    """What a finished run leaves behind, less names and times."""
    from safetensors.torch import load_file

    parts, version = run.read(DatasetParts), run.read(DatasetVersion)
    registered, promotion, published = run.read(RegisteredVersion), run.read(Promotion), run.read(Publication)
    client = tracking.client()
    model = run.path(run.read(MergedModel).path)
    evaluation = run.read(Evaluation)
    experiment = run.read(Adapter).tracked.experiment_id
    return {
        "parts": {name: digest(run.path(part.path)) for name, part in parts.parts.items()},
        "version": (version.tag, version.data_hash),
        "weights": {name: round(float(weight.double().sum()), 4) for name, weight in load_file(model / "model.safetensors").items()},
        "scores": {
            name: {metric: round(score["value"], 6) for metric, score in (asdict(evaluation)[name] or {}).items()}
            for name in ("tuned", "base")
        },
        "mlflow runs": len(client.search_runs([experiment])),
        "versions": [found.version for found in client.search_model_versions(f"name='{registered.name}'")],
        "champion": client.get_model_version_by_alias(registered.name, "champion").version,
        "promoted": promotion.promoted,
        "published": sorted(path.name for folder in (published.model, published.adapter) for path in Path(folder).iterdir()),
        "left over": sorted(path.name for step in STEPS if (run.folder / step).is_dir() for path in (run.folder / step).glob("g*-kept")),
        "attempts": all(len(list((run.folder / step).glob("g0-a*"))) <= 1 for step in STEPS),
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.timeout(1200)
def test_killed_steps_end_as_undisturbed_ones(
    tmp_path: Path, home: Path, tiny_document: dict[str, Any], make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_run(tiny_document)
    for step in STEPS:
        perform(step, undisturbed)
    expected = state(undisturbed)

    second_home = tmp_path / "second"
    monkeypatch.setenv("LORAFLOW_HOME", str(second_home))
    killed = Run(second_home / "runs/tiny/test")
    killed.folder.mkdir(parents=True)
    killed.freeze(undisturbed.recipe)
    for step in STEPS:
        kill_in_the_middle(killed, step)
        assert not (killed.folder / f"{step}.json").exists()
        perform(step, killed)
    assert killed.read(Adapter).resumed_from_step > 0
    assert state(killed) == expected
    assert json.loads((killed.folder / "promote.json").read_text())["output"]["promoted"] is True
