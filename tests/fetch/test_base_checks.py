"""What `download` and the doctor find in a base model's configuration and tokenizer, before its weights and the data are fetched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import RecipeError, RecipeErrors
from tasks.fetch.base_checks import check_base
from tasks.schema import load as recipes
from tests.support import tiny

GEMMA = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
NAMES = frozenset({"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"})


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny model without its weights."""
    return Path(shutil.copytree(tiny_base, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


def change(folder: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    found = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def check(folder: Path, sections: dict[str, Any] | None = None) -> None:
    document = recipes._lay_over(tiny.recipe_document(folder, folder / "none.csv"), sections or {})
    check_base(recipes.resolve(document), folder, lambda: NAMES)


HEAD = {"kind": "sequence_classification", "prompt": {"answer": ""}, "gate": {"metric": "macro_f1"}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "architecture is T5ForConditionalGeneration"),
        (
            {"architectures": ["BartForCausalLM"], "model_type": "bart", "is_encoder_decoder": True},
            "model_type 'bart' is an encoder with a decoder",
        ),
        ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta"}, "architecture is RobertaForMaskedLM"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "model_type 'bert' reads a text as a whole"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "architecture is LlamaForSequenceClassification"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "clip"}, "model_type is 'clip'"),
        ({"architectures": None}, "architecture is none"),
    ],
    ids=["T5", "BART", "RoBERTa", "BERT with a head", "classifier", "CLIP", "none"],
)
def test_a_model_that_does_not_continue_a_text(folder: Path, config: dict[str, Any], message: str) -> None:
    change(folder, "config.json", **config)
    with pytest.raises(
        RecipeError,
        match=f"config.json: {message} \\(expected: a causal language model \\(decoder only\\)\\)\\. Fix: choose another base model$",
    ):
        check(folder)


def test_code_of_the_repository_is_refused_where_it_is_needed(folder: Path) -> None:
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    change(folder, "config.json", auto_map=own)
    check(folder)  # as of Phi 3: transformers knows the model itself
    change(folder, "config.json", model_type="own", architectures=["OwnForCausalLM"])
    with pytest.raises(
        RecipeError,
        match=r"model_type 'own' needs code from the model's repository \(auto_map\) .*never "
        r"run\)\. Fix: choose",
    ):
        check(folder)
    change(folder, "config.json", auto_map=None, architectures=["GemmaForCausalLM"])
    with pytest.raises(RecipeError, match=r"model_type is 'own', which transformers 5\S+ does not know .expected: a model that"):
        check(folder)


def test_a_tokenizers_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenization_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    own = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    change(folder, "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")
    check(folder)  # by tokenizer.json
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"transformers loads no tokenizer from it"):
        check(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_quantised_weights_are_refused(folder: Path, method: str) -> None:
    change(folder, "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(RecipeError, match=rf"the weights are stored quantised \({method}\) .*\. Fix: name the unquantised model"):
        check(folder)


def test_more_tokens_than_positions(folder: Path) -> None:
    check(folder, {"prompt": {"max_tokens": 512}})
    with pytest.raises(
        RecipeError, match=r"tiny.yaml: prompt.max_tokens: is 513, the base model has 512 positions \(expected: at most 512\)"
    ):
        check(folder, {"prompt": {"max_tokens": 513}})
    change(folder, "config.json", max_position_embeddings=None, model_type="gpt2", architectures=["GPT2LMHeadModel"], n_positions=32)
    with pytest.raises(RecipeError, match="is 64, the base model has 32 positions"):
        check(folder)


def test_labels_that_are_written_take_positions_too(folder: Path) -> None:
    """512 tokens hold a prompt with one label; writing 128 tokens, or scoring three labels, goes on behind that."""
    written = {
        "kind": "label_generation",
        "prompt": {"answer": " {labels}", "max_tokens": 512},
        "evaluate": {"max_new_tokens": 128},
        "gate": {"metric": "micro_f1", "floors": {"macro_f1": 0.1}},
        "split": {"balance": "none"},
    }
    with pytest.raises(
        RecipeError, match="is 512, the base model has 512 positions, and written labels take 126 more .expected: at most 386"
    ):
        check(folder, written)
    check(folder, written | {"prompt": {"answer": " {labels}", "max_tokens": 386}})


def test_a_token_without_a_row(folder: Path) -> None:
    """One that a text can hold, or that the prompt or the end is made of; a control token that nobody writes does no harm."""
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

    def with_token(content: str, special: bool) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["added_tokens"] += [{"id": rows, "content": content, "special": special, **added}]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    with_token("<image_soft_token>", special=True)
    check(folder)
    with pytest.raises(
        RecipeError, match=f"tokenizer: token '<image_soft_token>' has the id {rows}, the model has {rows} rows .expected: a row"
    ):
        check(folder, {"prompt": {"template": "<image_soft_token>{text}"}})
    change(folder, "config.json", vocab_size=rows - 1)
    with pytest.raises(RecipeError, match=rf"has the id {rows - 1}, the model has {rows - 1} rows \(expected: a row for each token\)"):
        check(folder)


def test_a_padding_token_without_a_row_is_replaced(folder: Path) -> None:
    """As in repositories whose authors added one and did not resize the embedding."""
    from tasks.model.tokenizer import Tokens

    assert Tokens(folder).pad_id == 0
    change(folder, "tokenizer_config.json", pad_token="[PAD]")
    check(folder)
    assert Tokens(folder).pad_id == Tokens(folder).eos_id == 1


def test_layers_that_the_model_lacks(folder: Path) -> None:
    check(folder, {"lora": {"target_modules": ["q_proj", "up_proj", "lm_head"]}})
    message = r"'c_attn' is no layer of this base model \(expected: names of its layers \(embed_tokens, lm_head, q_proj,"
    with pytest.raises(RecipeError, match=message):
        check(folder, {"lora": {"target_modules": ["q_proj", "c_attn"]}})
    with pytest.raises(RecipeError, match="'lm_head' is no layer"):
        check(folder, HEAD | {"lora": {"target_modules": ["lm_head"]}})


def test_a_head_that_transformers_does_not_have(folder: Path) -> None:
    check(folder, HEAD)
    change(folder, "config.json", architectures=["CodeGenForCausalLM"], model_type="codegen", n_positions=512)
    check(folder)
    with pytest.raises(
        RecipeError, match="model_type is 'codegen', for which transformers has no classification head .expected: a model with one"
    ):
        check(folder, HEAD)


def test_all_that_is_found_is_told_at_once(folder: Path) -> None:
    change(folder, "config.json", quantization_config={"quant_method": "gptq"})
    change(folder, "tokenizer_config.json", eos_token=None)
    with pytest.raises(RecipeErrors) as caught:
        check(folder, {"prompt": {"max_tokens": 600}})
    assert [error.where.rpartition(": ")[2] for error in caught.value.errors] == ["config.json", "prompt.max_tokens", str(folder)]


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda f: (f / "config.json").unlink(),
        r"no config.json \(expected: a model in the transformers format\)\. Fix: choose another base model",
    ),
    (lambda f: (f / "config.json").write_text("[1]"), r"config.json: no JSON object \(expected: a model in the transformers format\)"),
    (lambda f: change(f, "config.json", hidden_size="wide"), r"config.json: transformers cannot read it \(.*hidden_size"),
    (lambda f: (f / "tokenizer.json").write_text("{"), r"transformers loads no tokenizer from it \(.*\) \(expected: a fast tokenizer\)"),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN, ids=["no configuration", "a list", "a value", "tokenizer"])
def test_files_that_cannot_be_read(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(RecipeError, match=message):
        check(folder)
