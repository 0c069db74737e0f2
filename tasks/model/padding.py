"""Whether padding changes how a model reads a text: measured on the model itself, before it trains or scores in batches.

`tasks.model.batches` gives each token its position and masks the padding. That is not enough for a model that

- carries a state through the padding (RWKV; the convolutions of RecurrentGemma);
- counts absolute positions itself and takes none (the decoder of BART);
- counts positions from another number than 0 (RoBERTa);
- chooses rotary frequencies by the longest row of a batch (dynamic and LongRoPE scaling, beyond the original length).

A list of such architectures would never be complete, so every model is measured.
"""

import math
from typing import Any

from tasks.errors import RecipeError
from tasks.model.batches import inputs_of, pad_left, takes
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

TEXT = "One text, read alone and beside a longer one. "

SHORT = 6
"""Tokens of the short text: few, since some effects of padding fade with the distance from it."""

FLOAT32, ROUNDED = 1e-3, 0.2
"""Largest relative change of hidden states that may be rounding: in float32, and in 16 bits or packed weights. Tiny random models of
24 layers change by 3e-6, and by 0.03 (bfloat16) to 0.08 (8 bits). Models of the sorts above mostly change by 0.5 and more."""


def check_padding(recipe: Recipe, model: Any, tokens: Tokens) -> None:
    """Raise RecipeError where a model reads a text in a batch otherwise than alone.

    Compares the last hidden states of a short text in two forward passes: alone, without mask and positions, as the published snippet
    asks; and as the recipe's batches do, beside a text of `prompt.max_tokens` (not where all batches are of one row).

    Args:
        recipe: says length and batch sizes.
        model: on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
    """
    import torch

    sizes = {
        "train.per_device_train_batch_size": recipe.train.per_device_train_batch_size,
        "evaluate.batch_size": recipe.evaluate.batch_size,
    }
    batched = [key for key, size in sizes.items() if size > 1]
    long = ([] if tokens.bos_id is None else [tokens.bos_id]) + tokens.encode(TEXT) * recipe.prompt.max_tokens
    long, short = long[: int(min(recipe.prompt.max_tokens, _table(model.config.get_text_config())))], long[:SHORT]
    asked: dict[str, Any] = {"output_hidden_states": True}
    if model.get_output_embeddings() is not None and takes(model, "logits_to_keep"):  # BioGPT's classification head takes it, and fails
        asked["logits_to_keep"] = 1  # those of all tokens over a large vocabulary take gigabytes
    model.eval()
    with torch.no_grad():  # not inference mode: on a processor, packed weights are laid out anew in the first pass, and trained later
        alone = model(input_ids=torch.tensor([short], device=model.device), **asked).hidden_states[-1][0].float()
        batch = inputs_of(model, pad_left([short, long] if batched else [short], tokens.pad_id))
        padded = model(**batch, **asked).hidden_states[-1][0, -len(short) :].float()  # (short, D)
    spread = (alone - alone.mean(dim=-1, keepdim=True)).norm(dim=-1)
    change = ((padded - alone).norm(dim=-1) / spread).mean().item()
    if change > (limit := _rounding(model)):  # numbers that are not finite are found where scores and losses are
        raise RecipeError(
            f"{recipe.name}.yaml: base_model.name",
            f"{recipe.base_model.name} ({model.config.model_type}) reads a text {'beside a longer one' if batched else 'with positions'} "
            f"differently than alone: its hidden states change by {change:.1%}",
            f"at most {limit:.1%}",
            f"choose another base model{', or set ' + ' and '.join(f'{key}: 1' for key in batched) if batched else ''}",
        )


def _table(config: Any) -> float:
    """How many positions a model has a row for; rotary ones are computed, beyond those of its training too."""
    rotary = getattr(config, "rope_parameters", None)
    return math.inf if rotary else getattr(config, "max_position_embeddings", None) or math.inf


def _rounding(model: Any) -> float:
    """Of FLOAT32 and ROUNDED the one for a model's numbers; what is left unpacked of a packed model may be in float32."""
    packed = any(getattr(model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))
    return FLOAT32 if str(model.dtype) == "torch.float32" and not packed else ROUNDED
