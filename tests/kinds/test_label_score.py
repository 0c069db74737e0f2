"""Label scoring with answers of several tokens: `evaluate.label_score: log_probability`, up to the served model."""

import ast
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Evaluation, MergedModel
from tasks.errors import RecipeError, RecipeErrors
from tasks.kinds import label_scoring
from tasks.kinds.answers import single_label
from tasks.kinds.answers.generation import log_probabilities
from tasks.kinds.base import Row
from tasks.model.batches import collate
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.workspace.perform import perform
from tests.support import tiny, tiny_models

pytestmark = pytest.mark.trains

APART = ("very rude", "lovely street", "sunny day")
BEGUN = ("kind", "kind street", "rude table")
"""The first answer begins the second."""

TEXTS = [*(text for text, _ in tiny.tweets(11)), "table street number paper " * 50]


def document(base: Path, names: tuple[str, ...] = APART, **changes: Any) -> dict[str, Any]:
    made = tiny.recipe_document(base, Path("/none.csv"))
    made |= {"labels": {"names": list(names)}, "validate": {}}
    return recipes._lay_over(made, {"evaluate": {"label_score": "log_probability"}} | changes)


def scores(recipe: Recipe, model: Any, tokens: Tokens, texts: list[str], *told: Any) -> np.ndarray:
    return single_label.scores_of(recipe, label_scoring.respond(recipe, model, tokens, texts, *told))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Scores agree, the smallest among them too."""
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=1e-3)
    assert np.ptp(np.log(found), axis=0).max() > 0.5, "the rows must differ, or the comparison says nothing"


def one_by_one(model: Any, prompt: list[int], answers: list[list[int]]) -> np.ndarray:
    """Softmax of the answers' summed log-probabilities, each read after its prompt in a pass of its own."""
    import torch

    found = []
    with torch.inference_mode():
        for answer in answers:
            each = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(dim=-1)
            found.append(sum(float(each[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)))
    return np.exp(found) / np.exp(found).sum()


@pytest.fixture
def tokens(tiny_base: Path) -> Tokens:
    return Tokens(tiny_base)


@pytest.mark.parametrize("names", [APART, BEGUN])
@pytest.mark.parametrize("build", [tiny.build_gemma, tiny_models.build_gemma2, tiny_models.build_llama])
def test_scores_are_those_of_one_answer_at_a_time(tmp_path: Path, build: Any, names: tuple[str, ...]) -> None:
    base = build(tmp_path / "base")
    recipe, tokens, model = recipes.resolve(document(base, names, prompt={"max_tokens": 96})), Tokens(base), load_model(base, "float32")
    answers = [tokens.encode(f" {name}") + ([tokens.eos_id] if names == BEGUN else []) for name in names]
    assert len({len(answer) for answer in answers}) > 1
    prompts = [label_scoring.example(recipe, tokens, {"text": text, "label": names[0]}).prompt for text in TEXTS]
    assert_close(scores(recipe, model, tokens, TEXTS), np.array([one_by_one(model, prompt, answers) for prompt in prompts]))


def test_labels_of_one_token_score_the_same_either_way(tiny_base: Path, tokens: Tokens) -> None:
    names, model = ("negative", "neutral", "positive"), load_model(tiny_base, "float32")
    found = {
        way: scores(recipes.resolve(document(tiny_base, names, evaluate={"label_score": way})), model, tokens, TEXTS)
        for way in ("token", "log_probability")
    }
    assert_close(found["log_probability"], found["token"])
    np.testing.assert_allclose(found["log_probability"], found["token"], atol=1e-6)


@pytest.mark.parametrize("names", [APART, BEGUN])
def test_padding_changes_no_score(tiny_base: Path, tokens: Tokens, names: tuple[str, ...]) -> None:
    model, found, told = load_model(tiny_base, "float32"), {}, []
    for size in (1, 5, 12):
        recipe = recipes.resolve(document(tiny_base, names, evaluate={"label_score": "log_probability", "batch_size": size}))
        found[size] = scores(recipe, model, tokens, TEXTS, told.append)
    assert sum(told) == 3 * len(TEXTS)
    np.testing.assert_allclose(found[1].sum(axis=1), 1)
    assert_close(found[5], found[1])
    assert_close(found[12], found[1])


def test_the_end_counts_where_one_answer_begins_another(tiny_base: Path, tokens: Tokens) -> None:
    apart = label_scoring.scored_answers(recipes.resolve(document(tiny_base)), tokens)
    assert [tokens.decode(ids) for ids in apart] == [f" {name}" for name in APART]
    begun = label_scoring.scored_answers(recipes.resolve(document(tiny_base, BEGUN)), tokens)
    assert [tokens.decode(ids) for ids in begun] == [f" {name}<eos>" for name in BEGUN]


def test_a_long_text_is_cut_alike_for_every_label(tiny_base: Path, tokens: Tokens) -> None:
    recipe = recipes.resolve(document(tiny_base))
    made = [label_scoring.example(recipe, tokens, {"text": TEXTS[-1], "label": name}) for name in APART]
    assert all(example.cut and example.prompt == made[0].prompt for example in made)
    assert [tokens.decode(example.answer) for example in made] == [f" {name}<eos>" for name in APART]
    assert max(len(example.prompt + example.answer) for example in made) == recipe.prompt.max_tokens


def test_the_loss_is_the_mean_over_the_answers_tokens(tiny_base: Path, tokens: Tokens) -> None:
    recipe, model = recipes.resolve(document(tiny_base)), load_model(tiny_base, "float32")
    rows: list[Row] = [{"text": text, "label": name} for text, name in zip(TEXTS, APART, strict=False)]
    made = [label_scoring.example(recipe, tokens, row) for row in rows]
    batch = collate([{"example": example} for example in made], pad_id=tokens.pad_id, loss_on="answer")
    labels = batch.pop("labels")
    found = float(label_scoring.loss(recipe, tokens)(model(**batch), labels))
    assert found == pytest.approx(-log_probabilities(model, tokens, made, batch_size=3).sum() / sum(len(each.answer) for each in made))


def test_the_longest_answer_must_leave_room_for_a_text(tiny_base: Path, tokens: Tokens) -> None:
    long = "a very long label of many words"
    with pytest.raises(
        RecipeError, match=r"prompt.max_tokens: 12 tokens leave no room for the text \(expected: at least (\d+)\)"
    ) as caught:
        label_scoring.check_tokens(recipes.resolve(document(tiny_base, (*APART, long), prompt={"max_tokens": 12})), tokens)
    least = int(caught.value.expected.split()[2])
    recipe = recipes.resolve(document(tiny_base, (*APART, long), prompt={"max_tokens": least}))
    label_scoring.check_tokens(recipe, tokens)
    made = label_scoring.example(recipe, tokens, {"text": TEXTS[-1], "label": long})
    assert made.cut and len(made.prompt) + len(made.answer) == least


def test_labels_that_no_score_parts_are_refused(tiny_base: Path, tokens: Tokens) -> None:
    class Deaf(Tokens):
        def encode(self, text: str) -> list[int]:
            return [7, 9] if "street" in text or "sunny" in text else [5]

    with pytest.raises(
        RecipeError, match=r"'lovely street' and 'sunny day' are the same tokens \[7, 9\] of this base model .expected: labels that"
    ):
        label_scoring.check_tokens(recipes.resolve(document(tiny_base)), Deaf(tiny_base))
    silent = {"train": {"loss_on_end": False}}
    label_scoring.check_tokens(recipes.resolve(document(tiny_base, **silent)), tokens)
    message = r"train.loss_on_end: is false where the answer of 'kind' begins that of 'kind street' \(expected: a trained end token\)"
    with pytest.raises(RecipeError, match=message):
        label_scoring.check_tokens(recipes.resolve(document(tiny_base, BEGUN, **silent)), tokens)


def test_a_label_of_several_tokens_is_told_the_way_out(tiny_base: Path, tokens: Tokens) -> None:
    recipe = recipes.resolve(document(tiny_base, evaluate={"label_score": "token"}))
    with pytest.raises(RecipeError, match=r"one token\)\. Fix: choose another word, or set evaluate.label_score: log_probability"):
        label_scoring.check_tokens(recipe, tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": {"loss_on": "labels"}},
            r"train.loss_on is labels with evaluate.label_score log_probability \(expected: answer or sequence\)",
        ),
        (
            {"kind": "sequence_classification", "prompt": {"answer": ""}},
            r"evaluate.label_score is given with sequence_classification \(expected: label_scoring with it\)\. Fix: remove it",
        ),
        ({"evaluate": {"label_score": "mean"}}, "evaluate.label_score is 'mean' .expected: 'token' or 'log_probability'"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(tiny_base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors, match=message):
        recipes.resolve(document(tiny_base, **changes))


def check_snippet(recipe: Recipe, folder: Path) -> None:
    """The card's snippet prints what the model answers to its text."""
    import torch
    from transformers import AutoTokenizer

    model, printed = load_model(folder, "float32"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(label_scoring.snippet(recipe), {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder), "torch": torch})
    said, expected = ast.literal_eval(printed.getvalue()), scores(recipe, model, Tokens(folder), [label_scoring.wording(recipe).text])
    assert list(said) == list(recipe.labels.names) and list(said.values()) == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("names", [APART, BEGUN])
def test_the_card_s_snippet_scores_alike(tiny_base: Path, names: tuple[str, ...]) -> None:
    check_snippet(recipes.resolve(document(tiny_base, names)), tiny_base)


def test_a_whole_run_trains_merges_evaluates_registers_and_serves(home: Path, tiny_base: Path) -> None:
    import mlflow

    named = dict(zip(("positive", "neutral", "negative"), BEGUN, strict=True))
    rows = [(text, named[label]) for text, label in tiny.tweets(300)]
    run = tiny.start_at_train(home / "runs/tiny/test", tiny_base, rows, document(tiny_base, BEGUN, train={"num_train_epochs": 6}))
    for step in ("train", "merge", "evaluate", "register"):
        perform(step, run)
    found = run.read(Evaluation)
    assert found.tuned["macro_f1"].value > 0.9 > found.base["macro_f1"].value, "a label wins, and so does the longer that it begins"
    assert found.parity.same_labels == found.parity.rows == 16 and found.verdict.passed
    folder = run.path(run.read(MergedModel).path)
    check_snippet(run.recipe, folder)
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow/mlflow.db")
    served = mlflow.pyfunc.load_model("models:/tiny/1").predict(TEXTS[:3])
    assert list(served.columns) == ["label", *(f"score_{name}" for name in BEGUN)]
    expected = scores(run.recipe, load_model(folder, "float32"), Tokens(folder), TEXTS[:3])
    np.testing.assert_allclose(served.drop(columns="label").to_numpy(dtype=float), expected, atol=1e-6)
