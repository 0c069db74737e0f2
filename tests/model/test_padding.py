"""A row is read alike alone and in a batch: in each family, by all that puts rows to a model; what cannot is refused."""

import ast
import contextlib
import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import evaluate
from tasks.contracts import TrackedRun
from tasks.errors import RecipeError
from tasks.kinds import sequence_classification
from tasks.kinds.answers import generation
from tasks.kinds.base import Example, kind_of, numbers
from tasks.model.batches import inputs_of, pad_left
from tasks.model.load import load_model, save
from tasks.model.padding import check_padding
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.training import fit
from tasks.training.examples import TrainingRows
from tasks.training.job import Job
from tests.support import tiny
from tests.support.tiny_families import END, OFFSET, PAD, SOUND, UNSOUND, VOCABULARY, built, configuration, family_of

TEXTS = ["a kind day", "awful", "the sunny street was lovely again", "this number of very rude tables and broken paper there " * 2]
"""Texts of unlike lengths, as rows of one batch."""

HEADS = [
    "gpt2", "gpt_bigcode", "gpt_neo", "openai_gpt", "ctrl", "opt", "biogpt", "gptj", "falcon", "gpt_neox", "gemma", "gemma2", "gemma3",
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "phi3", "stablelm", "starcoder2", "smollm3", "bloom", "mpt", "falcon_alibi",
    "jamba",
]  # fmt: skip
"""Families that transformers has a classification head for."""

COMMON = {
    *("gpt2", "gptj", "llama", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi3"),
    *("bloom", "mamba", "rwkv"),  # without positions, without attention, and refused
}
"""Families of the shipped recipes and of most models on the Hub, and one of each other way to read; the others are looked at where they
may come out otherwise."""

READS = ("tasks/model", "tasks/kinds", "tasks/training", "tests/support/tiny_families.py", "requirements.lock")


def each(families: Iterable[str]) -> list[Any]:
    """Families as parameters."""
    return [family if family in COMMON else pytest.param(family, marks=pytest.mark.guards(*READS)) for family in families]


ADAPTED = {"mamba": ["in_proj"], "mamba2": ["in_proj"], "falcon_h1": ["in_proj", "q_proj"]}
"""Layers to adapt where PEFT does not take all linear ones."""

ABSOLUTE = ["gpt2", "gpt_bigcode", "gpt_neo", "openai_gpt", "ctrl", "xglm", "biogpt"]


@pytest.fixture(scope="module")
def tokens(tiny_base: Path) -> Tokens:
    return Tokens(tiny_base)


def recipe_of(kind: str = "label_scoring", size: int = 4, **changes: Any) -> Recipe:
    """The tiny recipe, as another kind and with batches of that size."""
    document = tiny.recipe_document(Path("/base"), Path("/none.csv"))
    document["train"]["per_device_train_batch_size"] = size
    document["evaluate"]["batch_size"] = size
    if kind == "sequence_classification":
        del document["prompt"]["answer"]
    return recipes.resolve(recipes._lay_over(document | {"kind": kind, "gate": {"metric": "macro_f1", "floors": {}}}, changes))


def examples_of(recipe: Recipe, tokens: Tokens) -> list[Example]:
    names = recipe.labels.names
    rows = [{"text": text, "label": names[place % len(names)]} for place, text in enumerate(TEXTS)]
    return [kind_of(recipe).example(recipe, tokens, row) for row in rows]


def prompts_of(tokens: Tokens) -> list[list[int]]:
    return [example.prompt for example in examples_of(recipe_of(), tokens)]


def assert_same(found: Any, expected: Any, what: str) -> None:
    assert np.ptp(expected) > 1e-2, "the rows must differ, or the comparison says nothing"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=what)


def test_padding_takes_no_position_and_its_own_lie_in_any_table() -> None:
    batch = pad_left([[5, 6, 7], [8]], PAD)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize(("family", "given"), [("gpt2", True), ("llama", True), ("bloom", False), ("mpt", False), ("mamba", False)])
def test_positions_go_to_models_that_take_them_an_adapter_beside_or_not(tokens: Tokens, tmp_path: Path, family: str, given: bool) -> None:
    recipe = recipe_of(lora={"target_modules": ADAPTED.get(family, "all-linear")})
    examples, plain = examples_of(recipe, tokens), family_of(family)
    tuned = fit.with_adapter(recipe, built(type(plain), configuration(family)))
    batch = pad_left([example.prompt for example in examples], PAD)
    loop = fit._trainer(fit.Prepared(recipe, tuned, tokens, TrainingRows(examples, [], 0), []), tmp_path, [])
    for taken in (inputs_of(plain, batch), inputs_of(tuned, batch), loop._prepare_inputs(batch)):
        assert ("position_ids" in taken) == given and {"input_ids", "attention_mask"} <= taken.keys()


@pytest.mark.parametrize("family", each(ABSOLUTE))
def test_without_positions_a_row_would_be_read_otherwise(tokens: Tokens, family: str) -> None:
    """What the other tests guard would be missed."""
    model, prompts = family_of(family), prompts_of(tokens)
    batch = inputs_of(model, pad_left(prompts, PAD))
    del batch["position_ids"]
    alone = model(**inputs_of(model, pad_left(prompts[1:2], PAD))).logits[0, -1]
    assert (model(**batch).logits[1, -1] - alone).abs().max() > 0.1


@pytest.mark.parametrize("family", each(SOUND))
def test_a_row_scores_alike_alone_and_in_a_batch(tokens: Tokens, family: str) -> None:
    model = family_of(family)
    for way in ("token", "log_probability"):
        one, many = (
            numbers(kind_of(recipe).respond(recipe, model, tokens, TEXTS))
            for recipe in (recipe_of(size=size, evaluate={"label_score": way}) for size in (1, 4))
        )
        assert one.keys() == many.keys()
        assert_same(list(many.values()), list(one.values()), way)


@pytest.mark.parametrize("family", each(SOUND))
def test_answers_are_as_probable_alone_in_a_batch_and_after_a_prompt_that_was_read_once(tokens: Tokens, family: str) -> None:
    model, recipe = family_of(family), recipe_of()
    examples = examples_of(recipe, tokens)
    answers = [[example.answer, [7, 8, 9], [11], [12, 13]] for example in examples]
    asked = [(example.prompt, answer) for example, of_row in zip(examples, answers, strict=True) for answer in of_row]
    plain = [plain_log_probability(model, prompt + answer, len(answer)) for prompt, answer in asked]
    whole = [Example(prompt, answer, False) for prompt, answer in asked]
    for size in (1, 4):
        told: list[int] = []
        assert_same(generation.log_probabilities(model, tokens, whole, batch_size=size), plain, f"batches of {size}")
        found = generation.answers_log_probabilities(
            model, tokens, [example.prompt for example in examples], answers, batch_size=size, advance=told.append
        )
        assert_same(np.concatenate(found), plain, f"prompt read once, batches of {size}")
        assert sum(told) == len(examples) and [len(each) for each in found] == [4] * len(examples)


def plain_log_probability(model: Any, ids: list[int], answer: int) -> float:
    """As anybody would ask a model who scores one text: neither padding nor mask nor positions."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -answer - 1 : -1].double()
    return logits.log_softmax(dim=-1)[range(answer), ids[-answer:]].sum().item()


@pytest.mark.parametrize("family", each(SOUND))
def test_a_model_writes_alike_alone_and_in_a_batch(tokens: Tokens, family: str) -> None:
    import torch

    model, prompts = family_of(family), prompts_of(tokens)
    one, many = (generation.generate(model, tokens, prompts, generation.Decoding(6, [END], size)) for size in (1, 4))
    assert one == many and any(one)
    longest = max(one, key=len)
    ids = prompts[one.index(longest)]
    for token in longest:  # and as the whole text read anew for each token says
        with torch.inference_mode():
            assert model(input_ids=torch.tensor([ids])).logits[0, -1].argmax() == token
        ids = [*ids, token]


@pytest.mark.parametrize("family", each(SOUND))
def test_a_row_carries_the_same_loss_alone_and_in_a_batch(tokens: Tokens, tmp_path: Path, family: str) -> None:
    """Through the trainer, with an adapter that says something."""
    import torch

    recipe = recipe_of(train={"loss_on": "sequence"}, lora={"target_modules": ADAPTED.get(family, "all-linear")})
    examples = examples_of(recipe, tokens)
    torch.manual_seed(0)
    model = fit.with_adapter(recipe, built(type(family_of(family)), configuration(family)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    losses = {}
    for size in (1, 4):
        sized = recipe_of(size=size, train={"loss_on": "sequence"})
        loop = fit._trainer(fit.Prepared(sized, model, tokens, TrainingRows(examples, [], 0), examples), tmp_path, [])
        losses[size] = loop.evaluate()["eval_loss"]
    assert losses[1] == pytest.approx(losses[4], rel=1e-4)
    features = [{"input_ids": example.prompt, "example": example} for example in examples]
    with torch.no_grad():
        together = loop.compute_loss(model, loop._prepare_inputs(loop.data_collator(features)), num_items_in_batch=1)
        alone = [loop.compute_loss(model, loop._prepare_inputs(loop.data_collator([each])), num_items_in_batch=1) for each in features]
    assert float(together) == pytest.approx(float(sum(alone)), rel=1e-4)


@pytest.mark.parametrize("family", each(HEADS))
def test_a_head_scores_alike_alone_and_in_a_batch(tokens: Tokens, family: str) -> None:
    from transformers import AutoModelForSequenceClassification

    model = built(AutoModelForSequenceClassification.from_config, configuration(family, num_labels=3))
    one, many = (
        numbers(sequence_classification.respond(recipe_of("sequence_classification", size), model, tokens, TEXTS)) for size in (1, 4)
    )
    assert_same(list(many.values()), list(one.values()), family)
    check_padding(recipe_of("sequence_classification"), model, tokens)


@pytest.mark.parametrize("family", each(SOUND))
def test_a_sound_model_passes_the_check(tokens: Tokens, family: str) -> None:
    check_padding(recipe_of(), family_of(family), tokens)


@pytest.mark.parametrize("family", each(["gpt2", "gemma2", "mixtral", "qwen3_next"]))
def test_rounding_to_16_bits_passes_the_check(tokens: Tokens, family: str) -> None:
    import torch

    check_padding(recipe_of(), built(type(family_of(family)), configuration(family)).to(torch.bfloat16), tokens)


def test_an_adapter_that_peft_cannot_put_in_is_a_fault_of_the_recipe(tokens: Tokens) -> None:
    with pytest.raises(RecipeError, match=r"tiny.yaml: lora.target_modules: this base model takes no such adapter .*'out_proj' is incomp"):
        fit.with_adapter(recipe_of(), built(type(family_of("mamba")), configuration("mamba")))


@pytest.mark.parametrize("family", each(UNSOUND))
def test_a_model_that_padding_disturbs_is_refused_unless_rows_stand_alone(tokens: Tokens, family: str) -> None:
    with pytest.raises(RecipeError, match=r"^tiny.yaml: base_model.name: folder:/base \(\w+\) reads a text beside a longer one") as caught:
        check_padding(recipe_of(), family_of(family), tokens)
    assert caught.value.remedy.endswith("or set train.per_device_train_batch_size: 1 and evaluate.batch_size: 1")
    check_padding(recipe_of(size=1), family_of(family), tokens)


@pytest.mark.parametrize("size", [1, 4])
def test_a_model_that_counts_from_another_number_is_refused(tokens: Tokens, size: int) -> None:
    (family,) = OFFSET
    with pytest.raises(RecipeError, match=r"\(roberta\) reads a text .* differently than alone"):
        check_padding(recipe_of(size=size), family_of(family), tokens)


def saved(family: str, folder: Path, tokenizer: Path, pad: str | None = "<pad>", **changes: Any) -> Path:
    """A family's model as a base on disk, whose tokenizer pads with that token."""
    import json

    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("model*.safetensors", "config.json"))
    file = folder / "tokenizer_config.json"
    named = json.loads(file.read_text())
    del named["pad_token"]
    file.write_text(json.dumps(named | ({"pad_token": pad} if pad else {})))
    save(built(type(family_of(family)), configuration(family, **changes)), folder)
    return folder


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
@pytest.mark.parametrize("known", [None, PAD, 5])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_loaded_model_knows_the_token_that_its_tokenizer_pads_with(
    tiny_base: Path, tmp_path: Path, family: str, known: int | None, pad: str | None
) -> None:
    folder = saved(family, tmp_path / "base", tiny_base, pad, pad_token_id=known)
    tokens, recipe = Tokens(folder), recipe_of("sequence_classification")
    model = load_model(folder, "float32", recipe.labels.names)
    assert model.config.pad_token_id == tokens.pad_id == (PAD if pad == "<pad>" else END)
    one, many = (
        numbers(sequence_classification.respond(recipe_of("sequence_classification", size), model, tokens, TEXTS)) for size in (1, 4)
    )
    np.testing.assert_allclose(list(one.values()), list(many.values()), atol=1e-5)
    save(model, tmp_path / "again")
    assert f'"pad_token_id": {tokens.pad_id}' in (tmp_path / "again" / "config.json").read_text()


def test_train_and_evaluate_refuse_before_they_begin(tiny_base: Path, tmp_path: Path) -> None:
    base = saved("rwkv", tmp_path / "base", tiny_base)
    run = tiny.start_at_train(tmp_path / "run", base, tiny.tweets(90))
    job = Job(
        run=run, recipe=run.recipe, halvings=0, tracked=TrackedRun("0", "0", "none"), step="train", base=run.folder / "base",
        train_part=run.folder / "parts/train.parquet", validation_part=None, data_tag="data/tiny/v1", resume_from=None,
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"\(rwkv\) reads a text beside a longer one differently than alone"):
        fit.fit(job)
    with pytest.raises(RecipeError, match=r"\(rwkv\) reads a text beside a longer one differently than alone"):
        evaluate._assess(run, evaluate.Candidate("tuned model", run.recipe, Tokens(base), lambda: load_model(base, "float32")), [])


@pytest.mark.parametrize("way", ["token", "log_probability", "head"])
def test_the_card_s_snippet_scores_a_text_as_a_batch_does(tiny_base: Path, tmp_path: Path, way: str) -> None:
    import torch
    from transformers import AutoTokenizer

    folder, kind = saved("gpt2", tmp_path / "base", tiny_base), "sequence_classification" if way == "head" else "label_scoring"
    recipe = recipe_of(kind, **({} if way == "head" else {"evaluate": {"label_score": way}}))
    model, printed = load_model(folder, "float32", recipe.labels.names if way == "head" else ()), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(kind_of(recipe).snippet(recipe), {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder), "torch": torch})
    said = ast.literal_eval(printed.getvalue())
    found = numbers(kind_of(recipe).respond(recipe, model, Tokens(folder), [kind_of(recipe).wording(recipe).text, *TEXTS]))
    assert list(said.values()) == pytest.approx([found[f"score_{name}"][0] for name in said], abs=1e-5)


def test_the_vocabulary_holds_the_tokenizer_s(tokens: Tokens) -> None:
    assert max(max(example.prompt + example.answer) for example in examples_of(recipe_of(), tokens)) < VOCABULARY
