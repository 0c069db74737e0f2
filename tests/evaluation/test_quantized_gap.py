"""The gap between the merged model and the adapter on the quantised base that it was trained on: measured, shown, never a refusal."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import evaluate
from tasks.contracts import Adapter, Download, Evaluation, MergedModel, Parity
from tasks.errors import ContractError
from tasks.evaluation import gate, parity
from tasks.model.load import load_adapter
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """A run on an NF4 base up to `merge`, made once; tests evaluate copies of it (`run`)."""
    home = tmp_path_factory.mktemp("gap")
    document = tiny.recipe_document(tiny_base, home / "none.csv")
    document["base_model"]["quantization"] = NF4
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_HOME", str(home))
        run = tiny.start_at_train(home / "runs/tiny/packed", tiny_base, tiny.tweets(360), document)
        for step in ("train", "merge"):
            perform(step, run)
    return run


@pytest.fixture
def run(merged: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LORAFLOW_HOME", str(merged.folder.parents[2]))
    (merged.folder / "evaluate.json").unlink(missing_ok=True)
    shutil.rmtree(merged.folder / "evaluate", ignore_errors=True)
    return Run(merged.folder)


def test_the_gap_is_measured_on_the_rows_of_parity_and_shown(run: Run) -> None:
    found = perform("evaluate", run)
    assert isinstance(found, Evaluation) and found.quantized
    assert found.parity.rows == found.parity.same_labels == found.quantized.rows == 16
    assert found.parity.largest_difference < 1e-4 < found.quantized.largest_difference < 1, "four bits say other numbers"
    assert found.quantized.same_labels >= 15 and found.verdict.passed
    assert run.read(Evaluation).quantized == found.quantized

    # the same by hand: the adapter on the base in four bits, the rows of the parity check
    base, adapter = run.path(run.read(Download).base_model.path), run.path(run.read(Adapter).path)
    packed = load_adapter(base, adapter, "float32", quantization=run.recipe.base_model.quantization)
    assert packed.base_model.model.model.layers[0].mlp.gate_proj.base_layer.weight.quant_type == "nf4"
    rows = [{"row": str(number + 2), "text": text, "label": label} for number, (text, label) in enumerate(tiny.tweets(360)[-60:])]
    chosen = parity.sample(60, 16)
    kind = evaluate.kind_of(run.recipe)
    whole = evaluate.load_model(run.path(run.read(MergedModel).path), "float32")
    said = kind.assess(run.recipe, whole, Tokens(base), rows)
    adapted = kind.assess(run.recipe, packed, Tokens(base), [rows[place] for place in chosen])
    gap = parity.compare(said, adapted, chosen, parity.QUANTIZED_TOLERANCE)
    assert gap.same_labels == found.quantized.same_labels
    assert gap.largest_difference == pytest.approx(found.quantized.largest_difference, rel=1e-3)

    client = tracking.client()
    metrics = client.get_run(run.read(Adapter).tracked.run_id).data.metrics
    assert metrics["quantized.same_labels"] == gap.same_labels
    assert metrics["quantized.largest_difference"] == found.quantized.largest_difference
    page = " ".join(run.path(found.report).read_text(encoding="utf-8").split())
    assert f"on that base: same label on {gap.same_labels} of 16 rows; largest difference" in page
    assert not any(line.startswith(gate.WARNING) for line in found.verdict.reasons)


def test_a_wide_gap_is_warned_of_and_refuses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = parity.compare
    monkeypatch.setattr(parity, "compare", lambda *given: Parity(16, 9, 0.4) if given[3] == parity.QUANTIZED_TOLERANCE else compare(*given))
    found = perform("evaluate", run)
    assert isinstance(found, Evaluation) and found.verdict.passed
    line = "merged model and adapter on the quantised base: the same on 9 of 16 rows, largest difference 0.4"
    assert found.verdict.reasons[2] == f"warning: {line}"
    page = run.path(found.report).read_text(encoding="utf-8")
    assert f'<span class="mark warn" role="img" aria-label="warning">!</span>{line}' in page and "The gate lets it pass" in page


def test_one_model_at_a_time_is_in_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    alive: list[weakref.ref[Any]] = []
    assess = evaluate._assess

    def watched(one: Run, candidate: evaluate.Candidate, *given: Any, **keys: Any) -> Any:
        def loaded() -> Any:
            assert not [model for model in alive if model() is not None], f"before {candidate.what}"
            alive.append(weakref.ref(model := candidate.load()))
            return model

        return assess(one, replace(candidate, load=loaded), *given, **keys)

    monkeypatch.setattr(evaluate, "_assess", watched)
    perform("evaluate", run)
    assert len(alive) == 4


def test_an_unquantised_base_has_no_gap(trained: Run) -> None:
    found = perform("evaluate", trained)
    assert isinstance(found, Evaluation) and found.quantized is None
    assert "quantised" not in trained.path(found.report).read_text(encoding="utf-8")


def test_rows_without_words_agree_within_the_tolerance() -> None:
    merged: Any = {"answer": np.array([-1.0, -2.0, -3.0, -4.0])}
    adapted: Any = {"answer": np.array([-2.05, -4.005])}
    assert parity.compare(merged, adapted, [1, 3], parity.QUANTIZED_TOLERANCE) == Parity(2, 2, pytest.approx(0.05))
    assert parity.compare(merged, adapted, [1, 3], parity.TOLERANCE) == Parity(2, 1, pytest.approx(0.05))
    spoken: Any = {**merged, "label": ["a", "b", "c", "d"]}
    assert parity.compare(spoken, {**adapted, "label": ["b", "a"]}, [1, 3], 9).same_labels == 1
    assert parity.sample(60, 16) == sorted(set(parity.sample(60, 16))) and parity.sample(3, 16) == [0, 1, 2]


def test_a_broken_adapter_is_told_on_a_quantised_base_too(run: Run, tmp_path: Path) -> None:
    base, folder = run.path(run.read(Download).base_model.path), tmp_path / "adapter"
    shutil.copytree(run.path(run.read(Adapter).path), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ContractError, match=r"not loadable on this base .* \(expected: its own adapter\)\. Fix: train again"):
        load_adapter(base, folder, "float32", quantization=run.recipe.base_model.quantization)
