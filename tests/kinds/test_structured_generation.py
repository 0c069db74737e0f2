"""The kind `structured_generation`: fields between markers, and new tokens from training to the served model."""

import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Adapter, BaseModelFiles, DatasetVersion, Download, Evaluation, MergedModel, Part
from tasks.errors import DataError, RecipeError, RecipeErrors
from tasks.kinds import structured_generation as kind
from tasks.model.load import load_model
from tasks.model.new_tokens import extended, new_rows
from tasks.model.tokenizer import Tokens
from tasks.registry import model_card
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.train import train
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny, tiny_gptj

pytestmark = pytest.mark.trains

RESULTS = {"lovely": "positive", "awful": "negative", "table": "neutral"}


def reports(count: int) -> list[dict[str, str]]:
    """Made-up rows whose first word gives field and class away."""
    draw = random.Random(0)
    words = [draw.choice(list(RESULTS)) for _ in range(count)]
    return [
        {"text": f"{word} {' '.join(draw.choices(tiny.FILLER, k=4))}", "act": f"the {word} street", "label": RESULTS[word]}
        for word in words
    ]


def document(base: Path, **changes: Any) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    found["kind"] = "structured_generation"
    found["data"]["fields"] = {"act": "act"}
    found["prompt"] = {
        "template": "<SH>{text} Act:", "answer": " {act} Result: {label}<EH>", "stop": "<EH>", "new_tokens": ["<SH>", "<EH>"],
        "max_tokens": 96,
    }  # fmt: skip
    found["train"] |= {"num_train_epochs": 4, "learning_rate": 1.0e-2, "save_steps": 1000}
    found["evaluate"] = {"parity_rows": 8, "resamples": 100, "max_new_tokens": 40, "batch_size": 16}
    found["gate"] = {"metric": "macro_f1", "floors": {"parsed": 0.1}}
    return recipes._lay_over(found, changes)


@pytest.fixture
def recipe(tiny_base: Path) -> Recipe:
    return recipes.resolve(document(tiny_base))


def start(folder: Path, base: Path, recipe: Recipe) -> Run:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run, rows = Run(folder), reports(144)
    folder.mkdir(parents=True)
    run.freeze(recipe)
    link_or_copy(base, folder / "base")
    parts = {}
    for name, own in (("train", rows[:-24]), ("test", rows[-24:])):
        table = pa.table({"row": range(2, len(own) + 2), **{key: [row[key] for row in own] for key in own[0]}})
        pq.write_table(table, folder / f"{name}.parquet")
        parts[name] = Part(f"{name}.parquet", len(own), dict(Counter(row["label"] for row in own)))
    run.write(Download(BaseModelFiles(f"folder:{base}", "0" * 64, "base"), source=None))
    run.write(DatasetVersion("data/tiny/v1", 1, True, f"{'0' * 32}.dir", "0" * 40, "made by hand", parts, None))
    return run


def adapter_rows(run: Run) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors = load_file(run.path(run.read(Adapter).path) / "adapter_model.safetensors")
    return {name: rows for name, rows in tensors.items() if "trainable_tokens" in name or "embed" in name or "wte" in name}


def test_new_tokens_live_from_training_to_the_merged_model(home: Path, tiny_base: Path, recipe: Recipe) -> None:
    import torch
    from transformers import AutoTokenizer

    base, run = tiny_base, start(home / "runs/tiny/new", tiny_base, recipe)
    perform("train", run)
    perform("merge", run)
    folder, adapter, rows = run.path(run.read(MergedModel).path), run.path(run.read(Adapter).path), new_rows(recipe, base)
    assert rows
    tokens, ids = Tokens(folder), list(rows.ids)
    assert ids == [tokens.id_of("<SH>"), tokens.id_of("<EH>")] and min(ids) >= len(AutoTokenizer.from_pretrained(base))
    for place in (folder, adapter):
        found = AutoTokenizer.from_pretrained(place)("<SH>the street<EH>", add_special_tokens=False)["input_ids"]
        assert found == tokens.encode("<SH>the street<EH>") == [ids[0], *found[1:-1], ids[1]]
    merged, drawn = load_model(folder, "float32"), load_model(base, "float32", rows=rows)
    after, before = (model.get_input_embeddings().weight for model in (merged, drawn))
    (saved,) = adapter_rows(run).values()
    assert merged.lm_head.weight is after and after[ids].equal(saved), "the merged rows are the adapter's"
    assert (after[ids] - before[ids]).abs().amax(dim=1).min() > 1e-3 and after[: min(ids)].equal(before[: min(ids)])
    examples = [kind.example(recipe, tokens, row) for row in reports(9)]
    ends = [torch.tensor([example.prompt + example.answer[:-1]]) for example in examples]
    assert all(int(merged(each).logits[0, -1].argmax()) == ids[1] for each in ends), "the stop carries loss"
    evaluation = perform("evaluate", run)
    assert isinstance(evaluation, Evaluation)
    assert set(evaluation.tuned) == {"macro_f1", "accuracy", "parsed", "chrf", "log_likelihood", "perplexity"}
    assert evaluation.majority and set(evaluation.majority) == {"macro_f1", "accuracy", "parsed", "chrf"}
    assert evaluation.tuned["parsed"].value > 0.8 and evaluation.tuned["log_likelihood"].value > evaluation.base["log_likelihood"].value
    assert evaluation.parity.same_labels == 8
    assert "the lovely street" not in run.path(evaluation.report).read_text()
    serve(run)
    check_snippet(recipe, folder, merged, tokens)


def serve(run: Run) -> None:
    """Register the version and ask it."""
    import mlflow

    registered = perform("register", run)
    table = mlflow.pyfunc.load_model(registered.uri).predict([row["text"] for row in reports(4)])  # type: ignore[union-attr]
    assert list(table.columns) == ["act", "label"] and set(table["label"]) <= {"", *RESULTS.values()}
    assert (table["label"] != "").any()


def check_snippet(recipe: Recipe, folder: Path, model: Any, tokens: Tokens) -> None:
    import contextlib
    import io

    import torch
    from transformers import AutoTokenizer

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(kind.snippet(recipe), {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder), "torch": torch})
    said = kind.respond(recipe, model, tokens, [kind.wording(recipe).text])
    expected = {name: words[0] for name, words in said.items()}  # type: ignore[index]
    assert printed.getvalue().strip() == (str(expected) if expected["label"] else "unparsable")


@pytest.mark.parametrize("vocabulary", [364, 500], ids=["as many rows as tokens", "rows beyond the vocabulary"])
def test_published_rows_stay_as_drawn_and_come_with_the_adapter(home: Path, tiny_base: Path, vocabulary: int) -> None:
    base = tiny_gptj.build_gptj(home / "gptj", tiny_base, vocabulary)
    small = {"train_new_tokens": False, "target_modules": ["q_proj", "v_proj"]}
    recipe = recipes.resolve(document(base, lora=small, train={"max_steps": 4, "save_steps": 2}))
    run = start(home / "runs/tiny/published", base, recipe)
    run.attempt, run.kept = run.folder / "train/g0-a1", run.folder / "train/g0-kept"
    train(run)
    shutil.rmtree(run.kept / "checkpoint-4")  # as if killed half way: what is frozen stays so when it is resumed
    perform("train", run)
    assert run.read(Adapter).resumed_from_step == 2
    perform("merge", run)
    rows, saved = new_rows(recipe, base), adapter_rows(run)
    assert rows and len(saved) == 2
    merged, drawn = load_model(run.path(run.read(MergedModel).path), "float32"), load_model(base, "float32", rows=rows)
    for layer, other in ((merged.get_input_embeddings(), drawn.get_input_embeddings()), (merged.lm_head, drawn.lm_head)):
        assert layer.weight.equal(other.weight)
        assert any(layer.weight[list(rows.ids)].equal(tensor) for tensor in saved.values())
    assert merged.lm_head.bias.equal(drawn.lm_head.bias) and len(merged.lm_head.bias) == max(vocabulary, max(rows.ids) + 1)
    if vocabulary > max(rows.ids):
        plain = load_model(base, "float32")
        assert not plain.lm_head.weight[list(rows.ids)].equal(drawn.lm_head.weight[list(rows.ids)])
    check_adapter_snippet(run, base, merged)


def check_adapter_snippet(run: Run, base: Path, merged: Any) -> None:
    """What the model card shows for the adapter loads the merged model, but for how it was rounded."""
    places = {"model": str(run.path(run.read(MergedModel).path)), "adapter": str(run.path(run.read(Adapter).path))}
    shown = model_card._snippet(run.recipe, "adapter", places, BaseModelFiles(f"folder:{base}", "0" * 64, "base"))  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    exec(re.sub(r"FOLDER OF THE BASE MODEL \([^)]*\)", str(base), shown), found)
    for name, weight in merged.named_parameters():
        assert found["model"].get_parameter(name).allclose(weight, atol=1e-6), name


WORDS = st.text(st.characters(categories=("L", "P", "Zs", "Nd")), min_size=1).map(str.strip).filter(bool)


@given(act=WORDS, label=st.sampled_from(sorted(RESULTS.values())))
def test_parsing_inverts_formatting(act: str, label: str) -> None:
    recipe = recipes.resolve(document(Path("/none")))
    said = recipe.prompt.answer.removesuffix("<EH>").format(act=act, label=label)
    assert kind.parse(recipe, said) == {"act": act, "label": label}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "the street",
        "the street Result:",
        "the street Result: great",
        "Result: positive",
        "a Result: positive and more",
        "  Result: positive",
    ],
)
def test_what_lacks_a_marker_a_field_or_a_class_is_unparsable(recipe: Recipe, said: str) -> None:
    assert kind.parse(recipe, said) is None


def test_metrics_count_the_unparsable_as_wrong(recipe: Recipe) -> None:
    import sacrebleu

    rows = [{"text": "t", "act": act, "label": label} for act, label in (("a b", "positive"), ("c d e", "negative"), ("f g", "neutral"))]
    said = {"act": ["a b", "c d", ""], "label": ["positive", "positive", ""], "parsed": np.array([1.0, 1, 0])}
    asked = said | {"log_probability": np.array([-1.0, -2, -3]), "tokens": np.array([1.0, 2, 3])}
    found = kind.metrics(recipe, rows, asked)(np.arange(3))
    assert found["parsed"] == pytest.approx(2 / 3) and found["accuracy"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)  # positive: 2 * 1 / (2 said + 1 true)
    assert found["log_likelihood"] == pytest.approx(-14 / 6) and found["perplexity"] == pytest.approx(np.exp(14 / 6))
    for draw in ([0, 1, 2], [1, 1, 0]):
        acts, truth = [said["act"][i] for i in draw], [rows[i]["act"] for i in draw]  # type: ignore[index]
        expected = sacrebleu.corpus_chrf(acts, [truth]).score  # type: ignore[arg-type]
        assert kind.metrics(recipe, rows, asked)(np.array(draw))["chrf"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": " "}, r"tiny: a row's text is empty \(expected: words\)"),
        ({"act": ""}, r"tiny: a row's act is empty \(expected: words\)"),
        ({"act": "a <EH>"}, r"tiny: a row's act holds '<EH>' \(expected: a text without it\)"),
        ({"label": "odd"}, "tiny: a row's label is 'odd' .expected: one of"),
        ({"act": "zq " * 90}, r"an answer of .* tokens leaves no room for a text \(expected: at least .*\)\. Fix: raise it"),
    ],
)
def test_a_bad_row_is_told(recipe: Recipe, tiny_base: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        kind.example(recipe, extended(recipe, tiny_base), reports(1)[0] | change)


def test_a_long_text_is_cut_and_its_answer_is_not(recipe: Recipe, tiny_base: Path) -> None:
    row, tokens = reports(1)[0] | {"text": "table street " * 90}, extended(recipe, tiny_base)
    made = kind.example(recipe, tokens, row)
    assert made.cut and len(made.prompt) + len(made.answer) == 96
    assert tokens.decode(made.prompt).endswith(" Act:") and tokens.decode(made.answer) == f" {row['act']} Result: {row['label']}<EH>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": {"answer": " {act} Result: {label}"}}, "prompt.answer does not end with prompt.stop '<EH>'"),
        ({"prompt": {"answer": " {act} {label}<EH>"}}, "prompt.answer has fields without a marker between them"),
        (
            {"prompt": {"answer": " Result: {label}<EH>"}},
            "prompt.answer names the fields ['label'] (expected: data.fields and label, ['act', ",
        ),
        (
            {"lora": {"target_modules": ["lm_head"]}},
            "lora.target_modules holds lm_head, whose rows of new tokens are kept with the adapter. Fix: remove it",
        ),
        ({"evaluate": {"max_new_tokens": 96}}, "evaluate.max_new_tokens is 96 (expected: less than prompt.max_tokens)"),
    ],
)
def test_a_bad_recipe_is_told(tiny_base: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        recipes.resolve(recipes._lay_over(document(tiny_base), change))
    assert message in str(caught.value)


def test_tokens_that_do_not_fit_are_told_before_the_weights(tiny_base: Path) -> None:
    known = recipes.resolve(document(tiny_base, prompt={"new_tokens": ["<pad>"]}))
    with pytest.raises(
        RecipeError, match=r"prompt.new_tokens: this base model knows '<pad>' already \(expected: tokens that are new to it\)"
    ):
        extended(known, tiny_base)
    missing = recipes.resolve(document(tiny_base, prompt={"new_tokens": []}))
    with pytest.raises(
        RecipeError, match=r"prompt.stop: '<EH>' is . tokens of this base model \(expected: one token\)\. Fix: add it to prompt.new"
    ):
        kind.check_tokens(missing, extended(missing, tiny_base))
