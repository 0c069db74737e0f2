"""Special tokens that the base model does not know: a tokenizer that has them, and rows of the embedding to learn them in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

STATISTICS_ROWS = 4096


@dataclass(frozen=True)
class NewRows:
    """Rows of the embedding and of the output layer that stand for new tokens."""

    ids: tuple[int, ...]
    seed: int
    """Of what they begin as: every step that loads the base model draws the same."""


def extended(recipe: Recipe, base: Path) -> Tokens:
    """The base model's tokenizer with the recipe's new tokens.

    Raises:
        RecipeError: the base model knows one of them already.
    """
    plain, new = Tokens(base), recipe.prompt.new_tokens
    if not new:
        return plain
    if known := [token for token in new if plain.id_of(token) is not None]:
        where = f"{recipe.name}.yaml: prompt.new_tokens"
        raise RecipeError(where, f"this base model knows {known[0]!r} already", "tokens that are new to it", "remove it")
    return Tokens(base, new)


def new_rows(recipe: Recipe, base: Path) -> NewRows | None:
    """The rows of the recipe's new tokens; None where it has none."""
    if not recipe.prompt.new_tokens:
        return None
    tokens = extended(recipe, base)
    return NewRows(tuple(tokens.encode(token)[0] for token in recipe.prompt.new_tokens), recipe.train.seed)


def initialise_rows(model: Any, rows: NewRows) -> None:
    """Give a base model rows for new tokens, drawn about the mean of the other rows with their spread; larger matrices where needed.

    Rows that a base keeps in store beyond its tokenizer's vocabulary were never trained; they are drawn anew as well.

    Args:
        model: causal language model, before an adapter is put in.
        rows: which rows, and the seed.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".
    """
    import torch

    first, known = min(rows.ids), model.get_input_embeddings().weight.shape[0]
    if max(rows.ids) >= known:
        model.resize_token_embeddings(max(rows.ids) + 1, mean_resizing=False)
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    generator = torch.Generator().manual_seed(rows.seed)
    with torch.no_grad():
        for weight in [inner.weight] if outer.weight is inner.weight else [inner.weight, outer.weight]:
            some = weight[: first : max(1, first // STATISTICS_ROWS)].float()  # (about STATISTICS_ROWS, D); all take gigabytes
            noise = torch.randn(len(rows.ids), weight.shape[1], generator=generator).to(some)
            weight[list(rows.ids)] = (some.mean(dim=0) + some.std(dim=0) * noise).to(weight)
        if getattr(outer, "bias", None) is not None and max(rows.ids) >= known:
            outer.bias[known:] = outer.bias[:known].float().mean().to(outer.bias)


def kept_rows(model: Any, rows: NewRows) -> dict[str, list[int]]:
    """PEFT's `trainable_token_indices`: the rows of the embedding, and of the output layer where it has a weight of its own."""
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    modules = (inner,) if outer.weight is inner.weight else (inner, outer)
    return {name: list(rows.ids) for name, module in model.named_modules() if any(module is each for each in modules)}


def freeze_rows(tuned: Any) -> None:
    """Leave the rows as they were drawn; the adapter keeps them all the same, since who has it alone could not draw them again."""
    for name, weight in tuned.named_parameters():
        if "trainable_tokens" in name:
            weight.requires_grad_(False)


def keep_bias(tuned: Any) -> None:
    """Let an output layer whose rows are trained add its bias, which PEFT 0.21 leaves out until the merge (GPT-J has one)."""
    from peft.utils.other import TrainableTokensWrapper

    for module in tuned.modules():
        if isinstance(module, TrainableTokensWrapper):
            bias = getattr(module.token_adapter.base_layer, "bias", None)
            if bias is not None:
                module.token_adapter.register_forward_hook(lambda _, __, output, bias=bias: output + bias)
