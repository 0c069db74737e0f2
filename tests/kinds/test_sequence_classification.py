"""The kind `sequence_classification`: a head that is trained, chosen, merged, reloaded and served."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Adapter, Download, Evaluation, MergedModel, RegisteredVersion
from tasks.errors import ContractError, DataError, RecipeErrors
from tasks.kinds import sequence_classification
from tasks.kinds.answers import single_label
from tasks.kinds.base import Example, classes_of
from tasks.model.load import HEAD_WEIGHT, load_adapter, load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import METRICS, Recipe
from tasks.schema.training import Quantization
from tasks.training.examples import with_class_weights
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated, tiny

pytestmark = pytest.mark.trains

NAMES = ("negative", "neutral", "positive")
TEXTS = [text for text, _ in tiny.tweets(360)[-60:]]


@pytest.fixture
def document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The tiny recipe with a head in place of an answer."""
    del tiny_document["prompt"]["answer"]
    train = {"class_weights": "auto", "eval_strategy": "epoch", "metric_for_best_model": "weighted_f1", "num_train_epochs": 3}
    gate = {"metric": "weighted_f1", "floors": {"weighted_f1": 0.5}}
    return {**tiny_document, "kind": "sequence_classification", "train": {**tiny_document["train"], **train}, "gate": gate}


@pytest.fixture
def recipe(document: dict[str, Any]) -> Recipe:
    return recipes.resolve(document)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """A run up to `register`, made once; tests only read it."""
    home = tmp_path_factory.mktemp("head")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_HOME", str(home))
        document = tiny.recipe_document(tiny_base, home / "none.csv")
        del document["prompt"]["answer"]
        document |= {"kind": "sequence_classification", "gate": {"metric": "weighted_f1", "floors": {"weighted_f1": 0.5}}}
        document["train"] |= {"class_weights": "auto", "eval_strategy": "epoch", "metric_for_best_model": "weighted_f1"}
        run = tiny.start_at_train(home / "runs/tiny/head", tiny_base, tiny.tweets(360), document, validation=30)
        for step in ("train", "merge", "evaluate", "register"):
            perform(step, run)
    return run


@pytest.fixture
def run(whole: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LORAFLOW_HOME", str(whole.folder.parents[2]))
    return Run(whole.folder)


def scores(recipe: Recipe, model: Any, folder: Path, texts: list[str]) -> np.ndarray:
    return single_label.scores_of(recipe, sequence_classification.respond(recipe, model, Tokens(folder), texts))


def test_it_learns_and_beats_base_and_majority(run: Run) -> None:
    found = run.read(Evaluation)
    assert set(found.tuned) == set(METRICS["sequence_classification"]) - {"f1"}
    assert found.majority is not None and found.tuned["weighted_f1"].value > 0.9 > found.base["weighted_f1"].value
    assert found.parity.same_labels == found.parity.rows == 16 and found.verdict.passed


def test_the_head_lives_after_merge_and_reload(run: Run) -> None:
    import torch
    from safetensors import safe_open

    folder, adapter = run.path(run.read(MergedModel).path), run.path(run.read(Adapter).path)
    classes = classes_of(run.recipe)
    merged = load_model(folder, "float32", classes)
    assert merged.config.id2label == dict(enumerate(NAMES))
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        (name,) = [name for name in file.keys() if name.endswith(HEAD_WEIGHT)]  # noqa: SIM118 - no mapping
        assert torch.equal(merged.score.weight, file.get_tensor(name))
    base = run.path(run.read(Download).base_model.path)
    adapted = load_adapter(base, adapter, "float32", classes)
    np.testing.assert_allclose(scores(run.recipe, merged, folder, TEXTS), scores(run.recipe, adapted, folder, TEXTS), atol=1e-5)


@pytest.mark.parametrize("packed", [None, Quantization(load_in_4bit=True)], ids=["whole", "packed"])
def test_a_head_that_the_base_lacks_is_drawn_by_the_seed_alone(tiny_base: Path, packed: Quantization | None) -> None:
    """Not by the device that the rest is loaded to: training and evaluation begin with the same head also where one base is packed."""
    import torch

    torch.manual_seed(7)
    torch.rand(5)  # whatever was drawn before
    head = load_model(tiny_base, "float32", NAMES, packed).get_parameter(HEAD_WEIGHT)
    drawn = torch.randn(3, 64, generator=torch.Generator().manual_seed(7)) * 0.1  # the base's initializer_range
    assert head.equal(drawn)


def test_a_merged_model_that_lost_its_head_does_not_load(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = run.path(run.read(MergedModel).path)
    weights = load_file(folder / "model.safetensors")
    del weights[HEAD_WEIGHT]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ContractError, match=r"weights are missing: \['score.weight'\]"):
        load_model(tmp_path, "float32", NAMES)


def test_the_validation_part_is_scored_and_the_best_is_kept(run: Run) -> None:
    client, tracked = tracking.client(), run.read(Adapter).tracked
    history = client.get_metric_history(tracked.run_id, "validation.weighted_f1")
    assert len(history) == 3 and client.get_metric_history(tracked.run_id, "validation.loss")
    merged = load_model(run.path(run.read(MergedModel).path), "float32", NAMES)
    rows = tiny.tweets(360)[-90:-60]  # the validation part
    said = sequence_classification.respond(run.recipe, merged, Tokens(run.path(run.read(MergedModel).path)), [text for text, _ in rows])
    truth = [{"label": label} for _, label in rows]
    measured = sequence_classification.metrics(run.recipe, truth, said)(np.arange(len(rows)))
    assert measured["weighted_f1"] == pytest.approx(max(metric.value for metric in history), abs=1e-6)


def test_it_is_served_where_loraflow_is_not_installed(run: Run, tmp_path: Path) -> None:
    assert run.read(RegisteredVersion).version == 1
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    uri = f"sqlite:///{run.folder.parents[2]}/mlflow/mlflow.db"
    served = json.loads(evaluated.outside(evaluated.PREDICT % TEXTS[:3], tmp_path, MLFLOW_TRACKING_URI=uri).splitlines()[-1])
    folder = run.path(run.read(MergedModel).path)
    assert served["columns"] == ["label", *(f"score_{name}" for name in NAMES)]
    expected = scores(run.recipe, load_model(folder, "float32", NAMES), folder, TEXTS[:3])
    np.testing.assert_allclose([row[1:] for row in served["rows"]], expected, atol=1e-6)


def test_weighted_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    generator = np.random.default_rng(0)
    for rows in (5, 60):
        truth, said = generator.integers(4, size=rows), generator.integers(3, size=rows)
        precision, recall, f1, _ = precision_recall_fscore_support(truth, said, average="weighted", zero_division=0)
        expected = {"weighted_f1": f1, "weighted_precision": precision, "weighted_recall": recall}
        assert sequence_classification.weighted(truth, said, 4) == pytest.approx(expected)


def test_class_weights_are_inverse_frequencies_and_weigh_the_loss(recipe: Recipe, tiny_base: Path) -> None:
    import torch

    examples = [Example([2], [place], False) for place in (0, 0, 0, 0, 1, 1, 2)]
    weighted = with_class_weights(recipe, examples)
    assert weighted.train.class_weights == pytest.approx([3 / 7, 6 / 7, 12 / 7])
    outputs = SimpleNamespace(logits=torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    each = -outputs.logits.log_softmax(dim=-1)
    found = sequence_classification.loss(weighted, Tokens(tiny_base))(outputs, torch.tensor([[0], [2]]))
    assert found.item() == pytest.approx(float(3 / 7 * each[0, 0] + 12 / 7 * each[1, 2]) / 2, rel=1e-5)


def test_a_long_text_loses_its_end_and_an_unknown_label_is_an_error(recipe: Recipe, tiny_base: Path) -> None:
    tokens = Tokens(tiny_base)
    made = sequence_classification.example(recipe, tokens, {"text": "table street number paper " * 50, "label": "neutral"})
    assert made.cut and len(made.prompt) == recipe.prompt.max_tokens and made.answer == [1]
    with pytest.raises(DataError, match=r"label is 'angry' .expected: one of \['negative'"):
        sequence_classification.example(recipe, tokens, {"text": "a", "label": "angry"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": {"template": "{text}", "answer": " {label}", "max_tokens": 64}}, "prompt.answer is given with a classification head"),
        ({"kind": "label_scoring", "gate": {"metric": "macro_f1"}}, r"prompt.answer is missing \(expected: the answer of label_scoring\)"),
        ({"train": {"class_weights": [1.0, 2.0]}}, r"train.class_weights has 2 weights \(expected: 3, one a label\)"),
        ({"train": {"metric_for_best_model": "loss", "eval_strategy": "no"}}, "train.metric_for_best_model is 'loss'"),
        ({"train": {"eval_strategy": "steps"}}, "train.eval_strategy steps and train.eval_steps go together"),
        ({"train": {"loss_on": "sequence"}}, "train.loss_on is sequence with a classification head"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(document: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    for section, values in changes.items():
        document[section] = {**document[section], **values} if section == "train" else values
    with pytest.raises(RecipeErrors, match=message):
        recipes.resolve(document)
