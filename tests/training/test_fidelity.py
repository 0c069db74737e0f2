"""Each recipe's full profile against its published card: what PEFT, bitsandbytes and the trainer are given, key by key."""

import math
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bases import BASES, configuration, on_paper, write
from tasks.kinds.base import classes_of
from tasks.model.load import load_model
from tasks.schema import load as recipes
from tasks.schema.load import lookup
from tasks.schema.recipe import Recipe
from tasks.training.fit import training_arguments, with_adapter

ATTENTION_AND_MLP = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NF4 = {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}
QLORA = NF4 | {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
UNSMILE = {
    "Women/Family": "여성/가족", "Men": "남성", "LGBTQ+": "성소수자", "Race/Nationality": "인종/국적", "Age": "연령", "Region": "지역",
    "Religion": "종교", "Other Hate Speech": "기타 혐오",
}  # fmt: skip
"""Label to its column, in the card's order; without one of these a row is None."""
LINEAR_DECAY = {"lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0}
"""What the cards' library does where they are silent."""


@dataclass(frozen=True)
class Card:
    """What a published card says, in the libraries' words."""

    base: str
    quantization: dict[str, Any]
    """Attributes of BitsAndBytesConfig; empty: unquantised."""
    lora: dict[str, Any]
    """r, lora_alpha, lora_dropout, bias."""
    adapted: set[str]
    """Names of the layers that get an adapter, in every block of the model (lm_head: once)."""
    trainable: int
    """Trained parameters at full size, as published."""
    arguments: dict[str, Any]
    """Attributes of TrainingArguments."""
    keys: dict[str, Any]
    """Recipe keys that reach neither: dotted key to value."""
    departs: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Recipe key to (default here, the card's value, restored by `as_published`)."""


CARDS = {
    "ethos": Card(
        base="google/gemma-2b-it",
        quantization={},
        lora={"r": 4, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none"},
        adapted={"q_proj", "v_proj"},
        trainable=18 * 4 * ((2048 + 2048) + (2048 + 256)),  # one key-value head of 256
        arguments={
            "learning_rate": 5e-4, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 0.0,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_train_epochs": 4, "max_steps": -1,
            "optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999, "fp16": False, "bf16": False, "seed": 1234,
        },  # without decay AdamW is Adam
        keys={
            "prompt.max_tokens": 128, "prompt.answer": " {label}", "base_model.dtype": "float32", "train.class_weights": None,
            "train.rows": None, "train.loss_on_end": True, "labels.names": ("Positive", "Negative"), "labels.positive": "Negative",
            "labels.rule.threshold": 0.333, "labels.rule.at_or_above": "Negative", "data.text": "comment", "data.label": "isHate",
            "split.by": "shuffle", "split.seed": 32, "split.test": 198, "split.validation": 0, "split.balance": "none",
            "evaluate.label_score": "token",
        },
        departs={"train.loss_on": ("answer", "sequence")},
    ),
    "unsmile": Card(
        base="google/gemma-2-2b-it",
        quantization=QLORA,
        lora={"r": 64, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none"},
        adapted=ATTENTION_AND_MLP,
        trainable=26 * 64 * ((2304 + 2048) + 2 * (2304 + 1024) + (2048 + 2304) + 3 * (2304 + 9216)),
        arguments=LINEAR_DECAY | {
            "learning_rate": 2e-4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2000,
            "optim": "paged_adamw_8bit", "eval_strategy": "steps", "eval_steps": 500, "activation_checkpointing": True, "fp16": False,
        },
        keys={
            "base_model.dtype": "float16", "train.class_weights": None, "train.rows": None, "labels.names": (*UNSMILE, "None"),
            "labels.rule.columns": UNSMILE, "labels.rule.none": "None", "data.text": "문장", "evaluate.decoding": "free",
            "prompt.template": "<start_of_turn>user\nComment: {text}<end_of_turn>\n<start_of_turn>model\n",
            "prompt.answer": "Hate Speech: {labels}\n<end_of_turn>",
        },
        departs={
            "train.loss_on": ("answer", "sequence"), "train.loss_on_end": (True, False),
            "split.published": ("test", "pooled"), "split.by": ("stratified", "shuffle"), "split.test": (0, 3749),
        },
    ),
    "sentiment_ko": Card(
        base="google/gemma-2-2b-it",
        quantization=NF4,
        lora={"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none"},
        adapted=ATTENTION_AND_MLP,
        trainable=26 * 16 * ((2304 + 2048) + 2 * (2304 + 1024) + (2048 + 2304) + 3 * (2304 + 9216)) + 4 * 2304,  # and the head
        arguments=LINEAR_DECAY | {
            "learning_rate": 2e-4, "weight_decay": 0.01, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
            "gradient_accumulation_steps": 2, "num_train_epochs": 4, "max_steps": -1, "optim": "adamw_8bit", "fp16": False,
            "load_best_model_at_end": True, "metric_for_best_model": "weighted_f1", "greater_is_better": True,
        },
        keys={
            "prompt.max_tokens": 128, "prompt.template": "{text}", "train.rows": None, "labels.names": ("무감정", "슬픔", "기쁨", "분노"),
            "labels.rule.indexes": {"무감정": 24, "슬픔": 5, "기쁨": 42, "분노": 6},
        },
        departs={
            "train.class_weights": ("auto", (0.2032, 0.2704, 0.2529, 0.2735)), "train.logging_steps": (5, 500),
            "train.eval_strategy": ("epoch", "steps"), "train.eval_steps": (None, 500),
        },
    ),
    "stop_hate": Card(
        base="meta-llama/Llama-2-13b-chat-hf",
        quantization=QLORA | {"bnb_4bit_quant_storage": "uint8"},
        lora={"r": 32, "lora_alpha": 64, "lora_dropout": 0.05, "bias": "lora_only"},
        adapted=ATTENTION_AND_MLP | {"lm_head"},
        trainable=32 * (40 * (4 * (5120 + 5120) + 3 * (5120 + 13824)) + (5120 + 32000)),
        arguments=LINEAR_DECAY | {
            "learning_rate": 2.5e-5, "warmup_steps": 5, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1,
            "max_steps": 1000, "optim": "paged_adamw_8bit", "fp16": True, "bf16": False,
        },
        keys={
            "train.loss_on": "answer", "train.loss_on_end": True, "train.rows": None, "prompt.chat_template": None, "prompt.system": None,
            "data.text": "instruction", "data.answer": "output", "data.test.answer": "chosen", "data.test.rejected": "rejected",
            "data.test.turns.human": "\n\nHuman: ", "data.test.turns.assistant": "\n\nAssistant: ",
        },
    ),
    "gitana": Card(
        base="bertin-project/bertin-gpt-j-6B",
        quantization={"load_in_4bit": False, "load_in_8bit": True},
        lora={"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none"},
        adapted={"q_proj", "v_proj"},
        trainable=7_340_032,  # the 7.34 million of the card: 28 * 2 * 16 * (4096 + 4096)
        arguments=LINEAR_DECAY | {
            "learning_rate": 2e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_steps": 1000, "fp16": True,
            "bf16": False,
        },
        keys={
            "train.rows": None, "train.loss_on": "answer", "prompt.template": "<SH>{text} Intervención:", "prompt.stop": "<EH>",
            "prompt.answer": " {intervencion} Resultado: {label}<EH>", "prompt.new_tokens": ("<SH>", "<EH>"), "data.text": "hechos",
            "data.label": "resultado", "data.fields": {"intervencion": "intervencion"}, "labels.names": ("Positivo", "Negativo", "Neutro"),
            "labels.rule.opening": {
                "Positivo": ("positivo", "positiva"), "Negativo": ("negativo", "negativa"), "Neutro": ("neutro", "neutra"),
            },
            "labels.rule.otherwise.column": "sentiment",
            "labels.rule.otherwise.values": {"POS": "Positivo", "NEG": "Negativo", "NEU": "Neutro"},
            "split.balance": "downsample", "split.groups": "near_copies",
        },
        departs={"lora.train_new_tokens": (True, False)},
    ),
}  # fmt: skip

WRITTEN = [path.stem for path in recipes.recipe_files() if path.stem in CARDS]


def full(name: str, *, as_published: bool = False) -> Recipe:
    return recipes.resolve(recipes.load(recipes.RECIPES / f"{name}.yaml"), "full", {"as_published": True} if as_published else {})


def plain(value: Any) -> Any:
    """Enumerations and torch's types by their name."""
    return getattr(value, "value", str(value).removeprefix("torch.") if str(value).startswith("torch.") else value)


def test_recipes_with_cards_are_found() -> None:
    assert {"ethos", "sentiment_ko"} <= set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_trainer_is_given_what_the_card_says(name: str, tmp_path: Path) -> None:
    card, recipe = CARDS[name], full(name)
    assert recipe.base_model.name == card.base
    arguments = training_arguments(recipe, tmp_path)
    assert {key: plain(getattr(arguments, key)) for key in card.arguments} == card.arguments
    assert {key: lookup(recipe, key) for key in card.keys} == card.keys


@pytest.mark.parametrize("name", WRITTEN)
def test_as_published_restores_what_the_default_departs_from(name: str) -> None:
    card, here, published = CARDS[name], full(name), full(name, as_published=True)
    assert {key: lookup(here, key) for key in card.departs} == {key: default for key, (default, _) in card.departs.items()}
    assert {key: lookup(published, key) for key in card.departs} == {key: value for key, (_, value) in card.departs.items()}
    text = (recipes.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert not card.departs or "as_published: true" in text, "the file says how the card's choices are restored"
    for key in card.departs:
        assert re.search(rf"^ +{key.rpartition('.')[2]}: .*#", text, re.M), f"{key}: a comment says what the card does"


def test_the_prompt_of_ethos_has_the_tutorial_s_parts_in_its_order() -> None:
    parts = ["[{labels}]", "<separator>", "Text: {text}", "<separator>", "Prediction:"]
    template = full("ethos").prompt.template
    assert re.search(".*".join(map(re.escape, parts)) + "$", template, re.S) and template.count("<separator>") == 2


def test_the_card_of_unsmile_says_what_becomes_of_profanity() -> None:
    assert "악플/욕설" in full("unsmile").description


@pytest.mark.parametrize("name", WRITTEN)
def test_peft_adapts_the_layers_of_the_card_at_full_size(name: str) -> None:
    card, recipe = CARDS[name], full(name, as_published=True)
    config = configuration(card.base)
    model = with_adapter(recipe, on_paper(config, len(classes_of(recipe))))
    peft = model.active_peft_config
    assert {key: getattr(peft, key) for key in card.lora} == card.lora
    layers = [(path, module) for path, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {path.rpartition(".")[2] for path, _ in layers} == card.adapted
    assert len(layers) == len(card.adapted - {"lm_head"}) * config.num_hidden_layers + ("lm_head" in card.adapted)
    for path, module in layers:
        assert (module.r["default"], module.scaling["default"]) == (card.lora["r"], card.lora["lora_alpha"] / card.lora["r"]), path
        dropout = module.lora_dropout["default"]
        assert getattr(dropout, "p", 0.0) == card.lora["lora_dropout"], path
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == card.trainable


@pytest.mark.parametrize("name", WRITTEN)
def test_bitsandbytes_packs_the_base_as_the_card_says(name: str, tmp_path: Path) -> None:
    card, recipe = CARDS[name], full(name)
    write(configuration(card.base, tiny=True), tmp_path, "cpu")
    load = partial(load_model, tmp_path, "float32", classes_of(recipe))
    model = load(recipe.base_model.quantization)
    if not card.quantization:
        assert recipe.base_model.quantization is None and not hasattr(model.config, "quantization_config")
        return
    found = model.config.quantization_config
    assert {key: plain(getattr(found, key)) for key in card.quantization} == card.quantization
    kind = "Params4bit" if card.quantization["load_in_4bit"] else "Int8Params"
    packed = {
        path.rpartition(".weight")[0].rpartition(".")[2] for path, weight in model.named_parameters() if type(weight).__name__ == kind
    }
    assert card.adapted - {"lm_head"} <= packed and "lm_head" not in packed and "score" not in packed
    tuned = with_adapter(recipe, model)
    assert math.isclose(tuned.active_peft_config.lora_alpha, card.lora["lora_alpha"])


def test_every_card_names_a_base_whose_numbers_are_known() -> None:
    assert {card.base for card in CARDS.values()} == set(BASES)
