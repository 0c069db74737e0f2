"""The base models of the recipes without their weights: public configurations, at full size and at a tiny one.

Sources: the models' own config.json on the Hub, and the papers' tables: Gemma (arXiv 2403.08295), Gemma 2 (arXiv 2408.00118),
Llama 2 (arXiv 2307.09288), GPT-J 6B (its model card). `parameters` is what comes out of the numbers, and must.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Base:
    """An architecture of transformers and its numbers."""

    model_type: str
    numbers: dict[str, Any]
    parameters: int
    """Of the causal language model, an embedding that is shared with the output layer counted once."""


BASES = {
    "google/gemma-2b-it": Base(
        "gemma",
        {
            "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384, "num_hidden_layers": 18, "num_attention_heads": 8,
            "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192,
        },
        2_506_172_416,
    ),
    "google/gemma-2-2b-it": Base(
        "gemma2",
        {
            "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        },
        2_614_341_888,
    ),
    "meta-llama/Llama-2-13b-chat-hf": Base(
        "llama",
        {
            "vocab_size": 32_000, "hidden_size": 5120, "intermediate_size": 13_824, "num_hidden_layers": 40, "num_attention_heads": 40,
            "num_key_value_heads": 40, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        },
        13_015_864_320,
    ),
    "bertin-project/bertin-gpt-j-6B": Base(
        "gptj",
        {"vocab_size": 50_400, "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "rotary_dim": 64},
        6_050_882_784,
    ),
}  # fmt: skip
"""Name on the Hub to the model's configuration."""

TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32,
    "n_embd": 64, "n_layer": 2, "n_head": 2, "rotary_dim": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""What makes any of them tiny; each takes the numbers that it knows."""


SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
"""Special tokens of a made-up tokenizer; their ids are 0, 1, 2, …"""


def configuration(name: str, *, tiny: bool = False, layers: int | None = None) -> Any:
    """The transformers configuration of a base model.

    Args:
        name: of the model on the Hub.
        tiny: two narrow layers and a small vocabulary.
        layers: how many layers, where not as many as the model has.

    Raises:
        KeyError: no base of the recipes has this name.
    """
    from transformers import AutoConfig

    base = BASES[name]
    small = {key: value for key, value in TINY.items() if key in base.numbers or key.endswith("_token_id")} if tiny else {}
    if layers and not tiny:
        small = {key: layers for key in ("num_hidden_layers", "n_layer") if key in base.numbers}
    return AutoConfig.for_model(base.model_type, **base.numbers | small)


def on_paper(config: Any, classes: int = 0) -> Any:
    """The model of a configuration without memory for its weights (torch's meta device): for names, shapes and counts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForCausalLM
    if classes:
        auto, config.num_labels = AutoModelForSequenceClassification, classes
    with torch.device("meta"):
        return auto.from_config(config)


def write(config: Any, folder: Path, device: str) -> int:
    """Save a causal language model with random weights, in 16 bits, as a base model is saved.

    Returns:
        The number of its parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def write_tokenizer(folder: Path, tokens: int) -> int:
    """Save a made-up tokenizer that encodes any text: the words `w0`, `w1`, … as one token each, anything else as its bytes.

    Args:
        folder: folder of the base model.
        tokens: how many tokens it knows.

    Returns:
        The number of its words.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = tokens - len(SPECIAL) - len(letters)
    scores = {**dict.fromkeys(SPECIAL, 0.0), **dict.fromkeys(letters, -10.0), **{f"\u0120w{number}": -1.0 for number in range(words)}}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # a word and its number are one piece
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))])
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, additional_special_tokens=list(SPECIAL[4:]), padding_side="left")
    fast.save_pretrained(folder)
    return words
