"""The model card: front matter that the Hub reads, prose with the run's figures, and snippets that run."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tasks.contracts import Adapter, DatasetVersion, Evaluation, MergedModel, Publication, Score
from tasks.kinds.base import kind_of
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import model_card
from tasks.workspace.files import write_atomically
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated

pytestmark = pytest.mark.trains


@pytest.fixture
def promoted(trained: Run) -> Run:
    return evaluated.promote(trained)


@pytest.fixture
def card(promoted: Run) -> str:
    return model_card.render(promoted, "model", {"adapter": "loraflow/tiny-lora", "model": "loraflow/tiny"})


def test_the_front_matter_is_what_the_hub_reads(card: str) -> None:
    data = ModelCard(card).data
    assert (data.language, data.license, data.library_name, data.model_name) == ("en", "other", "transformers", "tiny")
    assert "content-safety" in data.tags and data.base_model is None and data.metrics == ["accuracy", "f1"]
    results = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert results == {"macro_f1": ("f1", 0.8), "accuracy": ("accuracy", 0.82)}
    assert {(result.dataset_type, result.dataset_split, result.dataset_revision) for result in data.eval_results} == {
        ("tiny", "test", "data/tiny/v1")
    }


def test_a_base_model_of_the_hub_is_linked(promoted: Run) -> None:
    download = json.loads((promoted.folder / "download.json").read_text())
    download["output"]["base_model"]["name"] = "google/gemma-3-270m"
    write_atomically(promoted.folder / "download.json", json.dumps(download))
    card = model_card.render(promoted, "adapter", {"adapter": "me/tiny-lora", "model": "me/tiny"})
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("google/gemma-3-270m", "adapter", "peft")
    assert 'AutoModelForCausalLM.from_pretrained("google/gemma-3-270m")' in card


def test_the_card_says_what_the_model_is_and_is_not_for(card: str, promoted: Run) -> None:
    evaluation, adapter = promoted.read(Evaluation), promoted.read(Adapter)
    assert "## What it must not be used for" in card and "**No decision about a person**" in card
    assert "| metric | this model | base model | majority class | predecessor (version 1) |" in card
    assert "| macro_f1 | 0.800 (0.790 to 0.810) | 0.300 (0.290 to 0.310) | 0.170 (0.160 to 0.180) | 0.700 (0.690 to 0.710) |" in card
    assert "same label on 16 of 16" in " ".join(card.split()) and evaluation.verdict.reasons[0] in card
    assert "500 rows read, 480 valid, 20 rejected (no text 12, not utf-8 8)" in card
    spent = adapter.emissions
    assert spent and f"Energy of the training: {spent.energy_kwh:.3g} kWh" in card
    assert f"{spent.co2eq_kg:.3g} kg CO2eq at {spent.intensity_kg_per_kwh:.3g} kg/kWh ({spent.electricity_of})" in card
    train = promoted.read(DatasetVersion).parts["train"]
    assert f"| train | {train.rows} | {train.labels['negative']} | {train.labels['neutral']} | {train.labels['positive']} |" in card
    assert (
        f"Trained {adapter.steps} steps" in card
        and f"| learning_rate | {promoted.recipe.train.learning_rate} |" in card
        and "| torch | 2.13.0 |" in card
    )
    assert "made in the test" in card.partition("## Licence")[2]
    assert "{{" not in card and "{%" not in card and "None" not in card


def test_tables_of_the_card_are_whole(card: str) -> None:
    """Every table row has as many cells as its head, and no blank line cuts a table."""
    body, tables = card.partition("\n---\n")[2], 0
    for block in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", body, flags=re.S)):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            tables += 1
            assert len(rows) >= 3 and set(rows[1]) <= set("|-: "), block
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, block
    assert tables == 5


def test_a_metric_without_a_value_leaves_a_gap(promoted: Run) -> None:
    gap = Score(math.nan, math.nan, math.nan)
    promoted.write(evaluated.evaluation(0.8, base={"macro_f1": gap}, tuned={**evaluated.scores(0.8), "roc_auc": gap}))
    card = model_card.render(promoted, "model", {"adapter": "loraflow/tiny-lora", "model": "loraflow/tiny"})
    assert "| roc_auc | - | - | - |" in card and "nan" not in card.lower()
    assert [result.metric_name for result in ModelCard(card).data.eval_results] == ["macro_f1", "accuracy"]


def snippets(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(), flags=re.S)


def test_the_snippets_of_the_card_run_and_score_as_the_evaluation_did(trained: Run, home: Path) -> None:
    evaluated.evaluate(trained, 0.8)
    for step in ("register", "promote"):
        perform(step, trained)
    found = perform("push", trained)
    assert isinstance(found, Publication)
    recipe, folder = trained.recipe, trained.path(trained.read(MergedModel).path)
    said = kind_of(recipe).respond(recipe, load_model(folder, "float32"), Tokens(folder), ["A text to label."])
    expected = [said[f"score_{name}"][0] for name in recipe.labels.names]

    transformers_snippet, mlflow_snippet = snippets(Path(found.model_card))
    scores = ast.literal_eval(evaluated.outside(transformers_snippet, home / "hub").splitlines()[-1])
    assert list(scores) == list(recipe.labels.names) and list(scores.values()) == pytest.approx(expected, abs=1e-5)

    shown = evaluated.outside(
        mlflow_snippet.replace("))", ").to_json())"),
        home, MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow/mlflow.db",
    )  # fmt: skip
    table = json.loads(shown.splitlines()[-1])
    assert [table[f"score_{name}"]["0"] for name in recipe.labels.names] == pytest.approx(expected, abs=1e-5)

    with_adapter = snippets(Path(found.adapter) / "README.md")[0]
    base = trained.path("base")
    with_adapter = with_adapter.replace("FOLDER OF THE BASE MODEL (local folder tiny-gemma)", str(base))
    scores = ast.literal_eval(evaluated.outside(with_adapter, home / "hub").splitlines()[-1])
    assert list(scores.values()) == pytest.approx(expected, abs=1e-4)
