"""The kind `label_generation`: answers written and read, scores, metrics, figures, and a whole run on a tiny Gemma 2."""

import ast
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts import Evaluation, MergedModel
from tasks.errors import DataError, RecipeError, RecipeErrors
from tasks.kinds import label_generation
from tasks.kinds.answers import label_answers, multi_label
from tasks.kinds.answers.generation import Decoding, answers_log_probabilities, generate, log_probabilities
from tasks.kinds.base import Example, Row
from tasks.model.batches import IGNORED, collate
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import model_card
from tasks.schema import load as recipes
from tasks.schema.recipe import METRICS, Recipe
from tasks.workspace.perform import perform
from tests.support import evaluated, tiny, tiny_models

NAMES = ("positive", "negative", "neutral", "None")


def rows(count: int) -> list[tuple[str, str]]:
    """Made-up (text, labels) rows: a word gives each label away, and a text may have none, one or two."""
    draw, seen, found = random.Random(4), set(), []
    words = {"positive": tiny.POSITIVE, "negative": tiny.NEGATIVE, "neutral": tiny.NEUTRAL}
    while len(found) < count:
        chosen = [name for name in words if draw.random() < 0.4][:2]
        text = [draw.choice(tiny.FILLER) for _ in range(draw.randint(3, 6))]
        for name in chosen:
            text.insert(draw.randint(0, len(text)), draw.choice(words[name]))
        if (line := " ".join(text)) not in seen:
            seen.add(line)
            found.append((line, "|".join(chosen) or "None"))
    return found


def document(base: Path, **changes: Any) -> dict[str, Any]:
    made = tiny.recipe_document(base, Path("/none.csv"))
    del made["data"]["label"]
    made |= {
        "kind": "label_generation",
        "labels": {"names": list(NAMES), "rule": {"by": "columns", "columns": {name: name for name in NAMES[:3]}, "none": "None"}},
        "validate": {},
        "split": {"seed": 1, "test": 60},
        "prompt": {
            "template": "<start_of_turn>user\nTweet: {text}<end_of_turn>\n<start_of_turn>model\n",
            "answer": "Labels: {labels}\n<end_of_turn>", "max_tokens": 96,
        },
        "gate": {"metric": "micro_f1", "floors": {"parsed": 0.5}},
        "evaluate": {"parity_rows": 8, "resamples": 100, "max_new_tokens": 32},
    }  # fmt: skip
    return recipes._lay_over(made, changes)


@pytest.fixture(scope="module")
def base(shared_tmp: Path) -> Path:
    folder = shared_tmp / "tiny-gemma2"
    with FileLock(shared_tmp / "tiny-gemma2.lock"):
        if not (folder / "tokenizer.json").exists():
            tiny_models.build_gemma2(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(base: Path) -> Recipe:
    return recipes.resolve(document(base))


@pytest.fixture(scope="module")
def tokens(base: Path) -> Tokens:
    return Tokens(base)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_model(base, "float32")


def row(text: str, labels: str = "None") -> Row:
    return {"text": text, "label": labels}


def test_a_row_is_prompt_labels_in_order_and_both_ends(recipe: Recipe, tokens: Tokens) -> None:
    made = label_generation.example(recipe, tokens, row("a lovely table", "neutral|positive"))
    assert tokens.decode(made.prompt) == "<bos><start_of_turn>user\nTweet: a lovely table<end_of_turn>\n<start_of_turn>model\n"
    assert tokens.decode(made.answer) == "Labels: positive\nneutral\n<end_of_turn><eos>" and not made.cut


def test_the_end_of_the_turn_and_the_end_token_both_carry_loss(recipe: Recipe, tokens: Tokens) -> None:
    made = label_generation.example(recipe, tokens, row("a lovely day", "positive"))
    learned = collate([{"example": made}], pad_id=tokens.eos_id, loss_on="answer")["labels"][0]  # type: ignore[index]
    assert learned.tolist() == made.answer and made.answer[-2:] == [*tokens.encode("<end_of_turn>"), tokens.eos_id]
    silent = collate([{"example": made}], pad_id=0, loss_on="sequence", silent_id=tokens.eos_id)["labels"][0]  # type: ignore[index]
    assert silent.tolist() == [*made.prompt[1:], *made.answer[:-1], IGNORED]


def test_the_loss_is_the_mean_over_the_answers_tokens(recipe: Recipe, tokens: Tokens, model: Any) -> None:
    made = [label_generation.example(recipe, tokens, row(text, labels)) for text, labels in rows(4)]
    batch = collate([{"example": example} for example in made], pad_id=tokens.pad_id, loss_on="answer")
    labels = batch.pop("labels")
    found = float(label_generation.loss(recipe, tokens)(model(**batch), labels))
    each = log_probabilities(model, tokens, made, batch_size=4)
    assert found == pytest.approx(-each.sum() / sum(len(example.answer) for example in made), abs=1e-4)


def test_a_long_text_loses_its_end_and_never_frame_or_answer(recipe: Recipe, tokens: Tokens) -> None:
    made = label_generation.example(recipe, tokens, row("table street number paper " * 50, "positive|neutral"))
    assert made.cut and len(made.prompt) + len(made.answer) == recipe.prompt.max_tokens
    assert tokens.decode(made.prompt).endswith("<end_of_turn>\n<start_of_turn>model\n")
    assert tokens.decode(made.answer) == "Labels: positive\nneutral\n<end_of_turn><eos>"


def test_rows_that_are_no_examples_are_told(recipe: Recipe, tokens: Tokens) -> None:
    with pytest.raises(DataError, match=r"tiny: a row's text is empty \(expected: a text\)"):
        label_generation.example(recipe, tokens, row(" "))
    with pytest.raises(DataError, match="tiny: a row's label is 'angry' .expected: one of"):
        label_generation.example(recipe, tokens, row("text", "positive|angry"))


def test_what_leaves_no_room_is_refused(base: Path, tokens: Tokens) -> None:
    with pytest.raises(RecipeError, match=r"prompt.max_tokens: 20 tokens leave no room .* \(expected: at least (\d+)\)") as caught:
        label_generation.check_tokens(recipes.resolve(document(base, prompt={"max_tokens": 20})), tokens)
    least = int(caught.value.expected.split()[2])
    label_generation.check_tokens(recipes.resolve(document(base, prompt={"max_tokens": least})), tokens)
    with pytest.raises(RecipeError, match="evaluate.max_new_tokens: 3 tokens are less than the answer of one label"):
        label_generation.check_tokens(recipes.resolve(document(base, evaluate={"max_new_tokens": 3})), tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": {"answer": "{label}"}}, "(expected: {labels} in the answer of label_generation). Fix: mark the place"),
        ({"train": {"loss_on": "labels"}}, "train.loss_on is labels with label_generation (expected: answer or sequence). Fix: remove it"),
        ({"gate": {"metric": "accuracy"}}, "gate names the metric 'accuracy' (expected: one of micro_f1, macro_f1, "
            "lrap, exact_match, parsed"),
        ({"labels": {"names": [*NAMES, " x"], "rule": {"columns": {" x": "x"}}}}, "labels.names holds ' x' (expected: names of one line"),
        ({"labels": {"names": [*NAMES, "a|b"], "rule": {"columns": {"a|b": "x"}}}}, "labels.names holds 'a|b' "
            "(expected: names without"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_is_refused(base: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        recipes.resolve(document(base, **change))
    assert message in str(caught.value)


@settings(max_examples=50)
@given(chosen=st.lists(st.sampled_from(NAMES[:3]), unique=True), blanks=st.sampled_from(["", "\n", " \n "]))
def test_reading_inverts_writing_whatever_the_order(chosen: list[str], blanks: str) -> None:
    recipe = recipes.resolve(document(Path("/base")))
    expected = [name for name in NAMES if name in chosen] or ["None"]
    assert label_answers.parse(recipe, label_answers.write(recipe, chosen) + blanks) == expected
    assert label_answers.parse(recipe, "Labels: " + "\n".join(chosen or ["None"]) + blanks) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Labels: angry",
        "Labels: positive\npositive",
        "Labels: None\npositive",
        "Labels: \n<end_of_turn>",
        "positive",
        "Labels: positive, neutral",
    ],
)
def test_other_answers_do_not_parse(recipe: Recipe, text: str) -> None:
    assert label_answers.parse(recipe, text) is None


def test_what_follows_the_closing_part_is_not_read(recipe: Recipe) -> None:
    assert label_answers.parse(recipe, "Labels: neutral\npositive\n<end_of_turn>\nangry") == ["positive", "neutral"]


def test_constrained_decoding_spells_every_answer_and_no_other(recipe: Recipe, tokens: Tokens) -> None:
    allowed, whole = label_answers.speller(recipe, tokens), set()

    def walk(written: list[int]) -> None:
        for token in allowed(written):
            if token == tokens.eos_id:
                whole.add(tuple(label_answers.parse(recipe, tokens.decode(written)) or ["unparsable"]))
            else:
                walk([*written, token])

    walk([])
    singles = [frozenset(name for bit, name in enumerate(NAMES[:3]) if number >> bit & 1) for number in range(8)]
    assert {frozenset(labels) - {"None"} for labels in whole} == set(singles) and len(whole) == 8 and ("None",) in whole


def test_free_answers_of_an_untrained_model_do_not_parse_and_constrained_ones_do(base: Path, tokens: Tokens, model: Any) -> None:
    texts = [text for text, _ in rows(6)]
    free = label_generation.respond(recipes.resolve(document(base)), model, tokens, texts)
    constrained = recipes.resolve(document(base, evaluate={"decoding": "constrained"}))
    bound = label_generation.respond(constrained, model, tokens, texts)
    assert not np.any(free["parsed"]) and free["labels"] == [""] * 6
    assert np.all(bound["parsed"]) and all(bound["labels"])
    assert list(bound) == list(label_generation.response(constrained))


def test_padding_changes_no_answer_and_no_score(base: Path, tokens: Tokens, model: Any) -> None:
    texts, told, found = [*[text for text, _ in rows(8)], "table street number paper " * 50], [], {}
    for size in (1, 4):
        made = recipes.resolve(document(base, evaluate={"batch_size": size, "decoding": "constrained"}))
        found[size] = label_generation.respond(made, model, tokens, texts, told.append)
    assert sum(told) == 2 * len(texts) and found[1]["labels"] == found[4]["labels"]
    for name in NAMES:
        np.testing.assert_allclose(found[4][f"score_{name}"], found[1][f"score_{name}"], atol=1e-4)
    assert np.ptp(found[1]["score_positive"]) > 1e-3, "the rows must differ, or the comparison says nothing"


def test_progress_is_half_the_writing_and_half_the_scoring(base: Path, tokens: Tokens, model: Any) -> None:
    told: list[int] = []
    label_generation.respond(
        recipes.resolve(document(base, evaluate={"batch_size": 4})), model, tokens, ["a", "b c", "d", "e f", "g"], told.append
    )
    assert told == [2, 0, 2, 1], "of five rows, in batches of four and one, twice"


def test_answers_after_one_reading_are_as_probable_as_each_alone(recipe: Recipe, tokens: Tokens, model: Any) -> None:
    made = [label_generation.example(recipe, tokens, row(text)) for text, _ in rows(3)]  # prompts longer than the sliding window
    answers = [[[*tokens.encode("Labels: positive"), 1], tokens.encode("Labels: None")], [tokens.encode("a")], [[5, 6, 7], [1], [9, 9]]]
    found = answers_log_probabilities(model, tokens, [example.prompt for example in made], answers, batch_size=4)
    for example, of_row, values in zip(made, answers, found, strict=True):
        alone = [log_probabilities(model, tokens, [Example(example.prompt, answer, False)], batch_size=1)[0] for answer in of_row]
        np.testing.assert_allclose(values, alone, atol=1e-4)


def test_a_label_s_score_sets_its_answer_against_the_one_without_it(recipe: Recipe) -> None:
    def f(*names: str) -> frozenset[str]:
        return frozenset(names)

    sets = label_generation._looked_at(recipe, f("positive"))
    assert set(sets) == {f(), f("positive"), f("positive", "negative"), f("positive", "neutral")}
    shares = {f(): 0.1, f("positive"): 0.6, f("positive", "negative"): 0.2, f("positive", "neutral"): 0.05}
    found = label_generation._scores(recipe, f("positive"), {chosen: float(np.log(share)) for chosen, share in shares.items()})
    assert found == pytest.approx([0.6 / 0.7, 0.2 / 0.8, 0.05 / 0.65, 0.1 / 0.95])


def test_without_a_none_label_a_lone_label_is_set_against_the_others(base: Path) -> None:
    made = document(base, labels={"names": ["positive", "negative", "neutral"]})
    made["labels"]["rule"].pop("none")
    recipe = recipes.resolve(made)
    lone = [frozenset({name}) for name in NAMES[:3]]
    assert set(label_generation._looked_at(recipe, frozenset())) == set(lone)
    values = {chosen: float(np.log(share)) for chosen, share in zip(lone, (0.5, 0.2, 0.1), strict=True)}
    assert label_generation._scores(recipe, frozenset(), values) == pytest.approx([0.5 / 0.8, 0.2 / 0.8, 0.1 / 0.8])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), digits=st.integers(1, 5))
def test_metrics_are_those_of_scikit_learn(seed: int, count: int, digits: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, label_ranking_average_precision_score

    recipe, draw = recipes.resolve(document(Path("/base"))), np.random.default_rng(seed)

    def answers() -> np.ndarray:
        found = draw.random((count, 4)) < 0.4
        found[:, 3] = ~found[:, :3].any(axis=1)
        return found

    truth, said, scores = answers(), answers(), draw.random((count, 4)).round(digits)  # rounded: equal scores occur
    said[draw.random(count) < 0.2] = False  # did not parse
    named = [[name for name, mark in zip(NAMES, marks, strict=True) if mark] or None for marks in said]
    columns = multi_label.columns_of(recipe, named, scores)
    tests = [row("x", "|".join(name for name, mark in zip(NAMES, marks, strict=True) if mark)) for marks in truth]
    found = multi_label.metrics(recipe, tests, columns)(np.arange(count))
    each = f1_score(truth, said, average=None, zero_division=np.nan)
    seen = each[:3][~np.isnan(each[:3])]
    expected = {
        "micro_f1": f1_score(truth[:, :3], said[:, :3], average="micro", zero_division=0), "macro_f1": seen.mean() if len(seen) else 0,
        "lrap": label_ranking_average_precision_score(truth, scores), "exact_match": accuracy_score(truth, said),
        "parsed": said.any(axis=1).mean(), **{f"f1_{name}": value for name, value in zip(NAMES, each, strict=True)},
    }  # fmt: skip
    assert found == pytest.approx(expected, nan_ok=True) and set(METRICS["label_generation"]) <= set(found)


def test_figures_are_pictures(recipe: Recipe, tmp_path: Path) -> None:
    from matplotlib import image

    tests = [row(text, labels) for text, labels in rows(40)]
    said = {model: multi_label.majority(recipe, "positive", tests) for model in ("tuned", "base", "champion")}
    drawn = label_generation.figures(recipe, tests, said, tmp_path)
    assert list(drawn) == ["F1 of each label", "Precision-recall curves"]
    assert all(min(image.imread(tmp_path / name).shape[:2]) > 300 for name in drawn.values())


@pytest.mark.trains
def test_a_whole_run_trains_merges_evaluates_registers_and_serves(home: Path, base: Path) -> None:
    import mlflow

    made = document(base, train={"num_train_epochs": 8}, labels={"names": list(NAMES)})
    run = tiny.start_at_train(home / "runs/tiny/test", base, rows(420), made)
    for step in ("train", "merge", "evaluate", "register"):
        perform(step, run)
    found = run.read(Evaluation)
    assert found.tuned["parsed"].value > 0.9 and found.tuned["micro_f1"].value > max(0.5, found.base["micro_f1"].value)
    assert found.majority["micro_f1"].value < found.tuned["micro_f1"].value and found.parity.same_labels == found.parity.rows
    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow/mlflow.db")
    texts = ["the lovely table again", "my street today"]
    served = mlflow.pyfunc.load_model("models:/tiny/1").predict(texts)
    folder = run.path(run.read(MergedModel).path)
    model, tokens = load_model(folder, "float32"), Tokens(folder)
    said = label_generation.respond(run.recipe, model, tokens, texts)
    assert served["labels"].tolist() == said["labels"] and list(served.columns) == list(said)
    assert json.loads(served["score_positive"].to_json(orient="values")) == pytest.approx(list(said["score_positive"]), abs=1e-5)

    code = "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
    code += f"tokenizer, model = (kind.from_pretrained({str(folder)!r}) for kind in (AutoTokenizer, AutoModelForCausalLM))\n"
    shown = ast.literal_eval(evaluated.outside(code + label_generation.snippet(run.recipe), home).splitlines()[-1])
    assert "|".join(shown) == label_generation.respond(run.recipe, model, tokens, [label_generation.wording(run.recipe).text])["labels"][0]
    assert "same labels on 8 of 8" in run.path(found.report).read_text().lower()
    assert model_card.hub_metric("f1_None") == model_card.hub_metric("micro_f1") == "f1" != model_card.hub_metric("lrap")


def test_generate_stops_at_what_is_allowed(recipe: Recipe, tokens: Tokens, model: Any) -> None:
    decoding = Decoding(max_new_tokens=5, stop_ids=[1], batch_size=2, allowed=lambda ids: [9] if len(ids) < 2 else [1])
    found = generate(model, tokens, [[2, 5], [2, 6, 7]], decoding)
    assert found == [[9, 9], [9, 9]]
