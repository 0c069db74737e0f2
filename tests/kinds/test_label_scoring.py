"""The kind `label_scoring`: rows as tokens, scores, metrics, figures."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DataError, RecipeError, RecipeErrors
from tasks.kinds import label_scoring
from tasks.kinds.answers import single_label
from tasks.kinds.base import Row
from tasks.metrics.bootstrap import bootstrap
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.schema.recipe import METRICS, Recipe
from tests.support import tiny

NAMES = ("negative", "neutral", "positive")


def row(text: str, label: str = "neutral") -> Row:
    return {"text": text, "label": label}


def respond(recipe: Recipe, *arguments: Any) -> np.ndarray:
    """The scores that a model gives, (n_rows, n_labels)."""
    return single_label.scores_of(recipe, label_scoring.respond(recipe, *arguments))


def measure(recipe: Recipe, truth: Sequence[str], scores: np.ndarray) -> dict[str, float]:
    """The metrics over all rows."""
    measured = label_scoring.metrics(recipe, [row("", label) for label in truth], single_label.columns_of(recipe, scores))
    return measured(np.arange(len(truth)))


@pytest.fixture
def three(tiny_document: dict[str, Any]) -> Recipe:
    return recipes.resolve(tiny_document)


@pytest.fixture
def two(tiny_document: dict[str, Any]) -> Recipe:
    return recipes.resolve({**tiny_document, "labels": {"names": ["Positive", "Negative"], "positive": "Negative"}})


@pytest.fixture
def tokens(tiny_base: Path) -> Tokens:
    return Tokens(tiny_base)


def test_a_label_of_several_tokens_is_refused_with_its_pieces(tiny_document: dict[str, Any], tokens: Tokens) -> None:
    recipe = recipes.resolve({**tiny_document, "labels": {"names": ["negative", "neutral", "xylophone"]}})
    with pytest.raises(
        RecipeError, match=r"tiny.yaml: labels.names: answer ' xylophone' is \d+ tokens \[.*\] of this base model .expected: one"
    ):
        label_scoring.check_tokens(recipe, tokens)


def test_labels_that_share_a_token_are_refused(three: Recipe) -> None:
    class Deaf:
        bos_id, eos_id, pad_id = None, 1, 0

        def literal(self, text: str, template: str = "") -> str:
            return text

        def encode(self, text: str) -> list[int]:
            return [9]

        def decode(self, ids: object) -> str:
            return "?"

    with pytest.raises(RecipeError, match=r"labels share a token: \[9, 9, 9\] \(expected: one token of its own for each label\)"):
        label_scoring.check_tokens(three, Deaf())


def test_a_frame_that_leaves_no_room_for_the_text_is_refused(tiny_document: dict[str, Any], tokens: Tokens) -> None:
    tiny_document["prompt"]["max_tokens"] = 8
    tiny_document["prompt"]["template"] = "one two three four five six seven eight {text} nine ten"
    with pytest.raises(RecipeError, match=r"prompt.max_tokens: 8 tokens leave no room for the text \(expected: at least (\d+)\)") as caught:
        label_scoring.check_tokens(recipes.resolve(tiny_document), tokens)
    tiny_document["prompt"]["max_tokens"] = int(caught.value.expected.split()[2])
    label_scoring.check_tokens(recipes.resolve(tiny_document), tokens)


def test_a_row_is_prompt_answer_and_end(three: Recipe, tokens: Tokens) -> None:
    made = label_scoring.example(three, tokens, row("a lovely day", "positive"))
    assert tokens.decode(made.prompt) == "<bos>Tweet: a lovely day\nSentiment:"
    assert tokens.decode(made.answer) == " positive<eos>" and made.answer[-1] == tokens.eos_id and not made.cut


def test_a_long_text_loses_its_end_and_never_the_frame(three: Recipe, tokens: Tokens) -> None:
    made = label_scoring.example(three, tokens, row("table street number paper " * 50))
    assert made.cut and len(made.prompt) + len(made.answer) == three.prompt.max_tokens
    text = tokens.decode(made.prompt)
    assert text.startswith("<bos>Tweet: table street") and text.endswith("\nSentiment:")


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_an_error(three: Recipe, tokens: Tokens, text: str) -> None:
    with pytest.raises(DataError, match=r"tiny: a row's text is empty \(expected: a text\)\. Fix: add an expectation"):
        label_scoring.example(three, tokens, row(text))


def test_padding_changes_no_prediction(tiny_document: dict[str, Any], tiny_base: Path, tokens: Tokens) -> None:
    texts = [text for text, _ in tiny.tweets(20)] + ["great", "table street number paper " * 50]
    model, told = load_model(tiny_base, "float32"), []
    found = {}
    for size in (1, 7, 22):
        tiny_document["evaluate"]["batch_size"] = size
        found[size] = respond(recipes.resolve(tiny_document), model, tokens, texts, told.append)
        assert sum(told) == len(texts)
        told.clear()
    assert found[1].shape == (22, 3)
    np.testing.assert_allclose(found[1].sum(axis=1), 1)
    np.testing.assert_allclose(found[7], found[1], atol=1e-4)
    np.testing.assert_allclose(found[22], found[1], atol=1e-4)
    assert np.ptp(found[1], axis=0).max() > 1e-3, "the rows must differ, or the comparison says nothing"


def test_scores_are_the_softmax_over_the_label_tokens(three: Recipe, tiny_base: Path, tokens: Tokens) -> None:
    import torch

    model = load_model(tiny_base, "float32")
    prompt = label_scoring.example(three, tokens, row("the awful street")).prompt
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    chosen = logits[[tokens.encode(f" {name}")[0] for name in NAMES]].double().numpy()
    expected = np.exp(chosen) / np.exp(chosen).sum()
    np.testing.assert_allclose(respond(three, model, tokens, ["the awful street"])[0], expected, atol=1e-5)


def test_the_most_probable_label_is_the_prediction(three: Recipe) -> None:
    columns = single_label.columns_of(three, np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]))
    assert list(columns) == list(label_scoring.response(three)) == ["label", "score_negative", "score_neutral", "score_positive"]
    assert columns["label"] == ["neutral", "negative"]


def test_metrics_of_two_classes_by_hand(two: Recipe) -> None:
    truth = ["Negative", "Negative", "Negative", "Positive", "Positive"]
    of_negative = np.array([0.9, 0.8, 0.3, 0.6, 0.1])  # predicted Negative: rows 1, 2, 4
    found = measure(two, truth, np.stack([1 - of_negative, of_negative], axis=1))
    # Negative: 2 found, 1 missed, 1 false: f1 = 4 / 6. Positive: 1 found, 1 missed, 1 false: f1 = 2 / 4.
    # Of the 6 pairs of a Negative and a Positive row, only (0.3, 0.6) is in the wrong order: 5 / 6.
    assert found == pytest.approx({"f1": 4 / 6, "macro_f1": (4 / 6 + 2 / 4) / 2, "accuracy": 3 / 5, "roc_auc": 5 / 6})


def test_the_names_of_the_metrics_are_the_recipe_s(two: Recipe, three: Recipe) -> None:
    assert set(measure(two, ["Positive", "Negative"], np.eye(2))) == set(METRICS["label_scoring"])
    assert set(measure(three, NAMES, np.eye(3))) == set(METRICS["label_scoring"]) - {"f1"}


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(3, 60), digits=st.integers(1, 6))
def test_metrics_are_those_of_scikit_learn(seed: int, rows: int, digits: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    recipe = recipes.resolve(tiny.recipe_document(Path("/base"), Path("/file")))
    generator = np.random.default_rng(seed)
    truth = np.concatenate([[0, 1, 2], generator.integers(3, size=rows - 3)])
    scores = generator.dirichlet([1, 1, 1], rows).round(digits)  # rounded: equal scores occur
    predicted = scores.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        areas = [roc_auc_score(truth == index, scores[:, index]) for index in range(3)]
    found = measure(recipe, [NAMES[index] for index in truth], scores)
    expected = {"macro_f1": f1_score(truth, predicted, average="macro"), "accuracy": accuracy_score(truth, predicted)}
    assert found == pytest.approx({**expected, "roc_auc": np.mean(areas)})


def test_a_constant_answer_has_chance_s_roc_auc_and_a_lacking_class_none(three: Recipe) -> None:
    constant = np.tile([0.0, 1.0, 0.0], (4, 1))
    # neutral is right twice of four: f1 = 2 * 2 / (4 + 2), the others 0
    found = measure(three, ["neutral", "neutral", "negative", "positive"], constant)
    assert found == pytest.approx({"macro_f1": (4 / 6) / 3, "accuracy": 0.5, "roc_auc": 0.5})
    lacking = measure(three, ["neutral", "neutral", "negative", "negative"], constant)
    assert np.isnan(lacking["roc_auc"]) and lacking["macro_f1"] == pytest.approx((4 / 6) / 2)


def test_intervals_have_the_width_that_theory_gives() -> None:
    right = np.array([1.0] * 300 + [0.0] * 100)
    found = bootstrap(lambda draw: {"accuracy": float(right[draw].mean())}, 400, resamples=4000, confidence=0.95)["accuracy"]
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5  # of a binomial share: 0.0424
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.004)
    narrow = bootstrap(lambda draw: {"accuracy": float(right[draw].mean())}, 400, resamples=4000, confidence=0.6)["accuracy"]
    assert narrow.high - narrow.low == pytest.approx(2 * 0.8416 * (0.75 * 0.25 / 400) ** 0.5, abs=0.004)
    assert bootstrap(lambda draw: {"accuracy": float(right[draw].mean())}, 400, resamples=4000, confidence=0.95)["accuracy"] == found


def test_draws_without_a_class_are_left_out_of_its_interval(two: Recipe) -> None:
    def interval(truth: list[str]) -> Any:
        columns = single_label.columns_of(two, np.array([[0.4, 0.6]] * len(truth)))
        metrics = label_scoring.metrics(two, [row("", label) for label in truth], columns)
        return bootstrap(metrics, len(truth), resamples=200, confidence=0.95)["roc_auc"]

    # one Negative of eight: a third of the draws has none; the others give chance exactly
    found = interval(["Negative"] + ["Positive"] * 7)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    undefined = interval(["Positive"] * 8)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()


def test_a_draw_of_more_rows_takes_no_more_calls(three: Recipe) -> None:
    """Intervals need a thousand draws: each is measured in whole arrays, never row by row."""

    def calls(rows: int) -> int:
        generator, found = np.random.default_rng(0), 0
        truth, scores = [NAMES[i] for i in generator.integers(3, size=rows)], generator.dirichlet([1, 1, 1], rows)
        metrics = label_scoring.metrics(three, [row("", label) for label in truth], single_label.columns_of(three, scores))
        draw = np.arange(rows)
        metrics(draw)  # imports what it needs

        def count(_: object, event: str, __: object) -> None:
            nonlocal found
            found += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        metrics(draw)
        sys.setprofile(before)
        return found

    assert calls(40) == calls(4000) < 1000


@pytest.mark.parametrize("names", [("Positive", "Negative"), NAMES, ("기쁨", "슬픔", "분노", "무감정")])
def test_figures_are_pictures_and_draw_every_letter(
    tiny_document: dict[str, Any], tmp_path: Path, names: tuple[str, ...], recwarn: pytest.WarningsRecorder
) -> None:
    from matplotlib import image

    labels = {"names": names, "positive": names[1]} if len(names) == 2 else {"names": names}
    recipe = recipes.resolve({**tiny_document, "labels": labels})
    generator = np.random.default_rng(1)
    truth = [names[i % len(names)] for i in range(50)]
    scores = {model: generator.dirichlet([1] * len(names), 50) for model in ("tuned", "base", "champion")}
    columns = {model: single_label.columns_of(recipe, found) for model, found in scores.items()}
    drawn = label_scoring.figures(recipe, [row("", label) for label in truth], columns, tmp_path)
    assert drawn == {"Confusion matrix": "confusion.png", "ROC curves": "roc.png", "Precision-recall curves": "precision_recall.png"}
    for name in drawn.values():
        picture = image.imread(tmp_path / name)
        assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message) or "findfont" in str(warning.message)]


@pytest.mark.parametrize(
    ("gate", "name"),
    [({"metric": "macro_f"}, "macro_f"), ({"metric": "accuracy", "floors": {"recall": 0.5}}, "recall"), ({"metric": "f1"}, "f1")],
)
def test_a_recipe_with_an_unknown_metric_is_refused_when_read(tiny_document: dict[str, Any], gate: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeErrors, match=rf"tiny.yaml: gate names the metric '{name}' \(expected: one of macro_f1, accuracy, roc_auc\)"):
        recipes.resolve({**tiny_document, "gate": gate})
