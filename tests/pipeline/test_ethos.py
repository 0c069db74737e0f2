"""The recipe `ethos` on its real file, from download to push, with a tiny base model in place of the real one."""

from pathlib import Path

import pytest

from tasks.contracts import STEPS, DatasetVersion, Evaluation, Publication, RegisteredVersion, ValidRows
from tasks.errors import GateError
from tasks.schema import load as recipes
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

pytestmark = pytest.mark.trains


def start(home: Path, base: Path, run_id: str, floor: float) -> Run:
    overrides = {
        "base_model.name": f"folder:{base}",
        "prompt.max_tokens": 400,  # the tiny tokenizer knows few words of this prompt
        "train.rows": 64,
        "evaluate.resamples": 100,
        "evaluate.parity_rows": 8,
        "gate.floors.macro_f1": floor,
        "gate.floors.roc_auc": 0,
        "gate.beats_base": False,
    }
    run = Run(home / "runs" / "ethos" / run_id)
    run.folder.mkdir(parents=True)
    run.freeze(recipes.resolve(recipes.load(recipes.RECIPES / "ethos.yaml"), "local", overrides))
    return run


@pytest.mark.timeout(900)
def test_the_protocol_of_the_tutorial_from_download_to_push(mirror: Path, home: Path, tiny_base: Path) -> None:
    run = start(home, tiny_base, "good", floor=0)
    for step in STEPS:
        perform(step, run)
    rows, version = run.read(ValidRows), run.read(DatasetVersion)
    assert (rows.read, rows.valid, rows.rejected) == (998, 998, {})
    assert version.parts["train"].labels == {"Negative": 402, "Positive": 398}
    assert version.parts["test"].labels == {"Negative": 113, "Positive": 85}
    evaluation = run.read(Evaluation)
    assert evaluation.rows == 198 and set(evaluation.tuned) == {"f1", "macro_f1", "accuracy", "roc_auc"}
    assert evaluation.parity.same_labels == evaluation.parity.rows == 8
    assert Path(run.read(Publication).model_card).exists()

    refused = start(home, tiny_base, "refused", floor=1)
    with pytest.raises(GateError, match=r"refused it \(expected: every check to hold\)"):
        for step in STEPS:
            perform(step, refused)
    assert refused.read(DatasetVersion).tag == version.tag, "unchanged data get no new version"
    assert refused.read(RegisteredVersion).version == 2
    assert refused.read(Evaluation).champion_version == 1
    assert not (refused.folder / "promote.json").exists()
