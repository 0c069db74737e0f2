"""What a recipe asks of its base model, read from the model's configuration and tokenizer before weights or data are fetched.

`download` and the doctor ask the same. transformers answers what it can load and how; torch is not needed for that.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError, RecipeErrors
from tasks.kinds.answers.chat_prompt import render
from tasks.kinds.base import kind_of, longest_of
from tasks.model.new_tokens import extended
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

Tensors = Callable[[], frozenset[str]]
"""Gives the names of a model's weights."""

OTHER = "choose another base model"


def check_base(recipe: Recipe, folder: Path, tensors: Tensors) -> None:
    """Raise where a recipe cannot be trained on a base model, with all that is found.

    Args:
        recipe: what is to be trained.
        folder: the model's configuration and tokenizer; its weights need not be there.
        tensors: asked where the recipe names the layers that it adapts.

    Raises:
        RecipeErrors: the model does not suit the recipe.
        RecipeError: its configuration cannot be read, or it is no model that continues a text.
    """
    name = recipe.base_model.name
    given = read_json(name, folder / "config.json")
    _check_architecture(recipe, given)
    config = _configuration(name, folder, given)
    _check_decoder(recipe, config)
    longest, of_tokens = recipe.prompt.max_tokens, list[RecipeError]()
    try:
        tokens = extended(recipe, folder)
        longest = longest_of(recipe, tokens)
        kind_of(recipe).check_tokens(recipe, tokens)
        of_tokens += _beyond_vocabulary(recipe, tokens)
    except RecipeError as error:
        of_tokens.append(error)
    faults = [*_quantised(name, given), *_positions(recipe, config, longest), *of_tokens]
    if not faults:
        faults += _targets(recipe, tensors)
    if faults:
        raise RecipeErrors(faults) if len(faults) > 1 else faults[0]


def read_json(name: str, path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        RecipeError: the file is missing or holds none.
    """
    expected = "a model in the transformers format"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(name, f"no {path.name}", expected, OTHER) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RecipeError(f"{name}: {path.name}", "no JSON object", expected, OTHER)
    return found


def _check_architecture(recipe: Recipe, given: dict[str, Any]) -> None:
    """Raise where the stored weights are those of another sort of model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    architectures = [str(each) for each in given.get("architectures") or ["none"]]
    if "auto_map" not in given and not set(architectures) & set(CAUSAL.values()):
        raise _no_decoder(recipe, f"architecture is {architectures[0]}")


def _no_decoder(recipe: Recipe, found: str) -> RecipeError:
    return RecipeError(f"{recipe.base_model.name}: config.json", found, "a causal language model (decoder only)", OTHER)


def _configuration(name: str, folder: Path, given: dict[str, Any]) -> Any:
    """The configuration as transformers reads it."""
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    where, kind = f"{name}: config.json", given.get("model_type")
    if kind not in CONFIG_MAPPING:
        found = f"model_type is {kind!r}, which transformers {__version__} does not know"
        if "auto_map" in given:
            found = f"model_type {kind!r} needs code from the model's repository (auto_map)"
            raise RecipeError(where, found, "a model that transformers knows, since such code is never run", OTHER)
        raise RecipeError(where, found, "a model that transformers knows", OTHER)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises nothing narrower for values that cannot be
        detail = " ".join(str(error).split())[:300]
        raise RecipeError(where, f"transformers cannot read it ({detail})", "a model's configuration", OTHER) from None


def _check_decoder(recipe: Recipe, config: Any) -> None:
    """Raise where transformers has no model that continues a text for this configuration, or none with a head for labels."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    if config.is_encoder_decoder:
        raise _no_decoder(recipe, f"model_type {kind!r} is an encoder with a decoder")
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if masked or kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _no_decoder(recipe, f"model_type {kind!r} reads a text as a whole" if masked else f"model_type is {kind!r}")
    if kind_of(recipe).HEAD == "classification" and kind not in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        found = f"model_type is {kind!r}, for which transformers has no classification head"
        raise RecipeError(f"{recipe.base_model.name}: config.json", found, "a model with one", f"{OTHER}, or kind: label_scoring")


def _quantised(name: str, given: dict[str, Any]) -> Iterator[RecipeError]:
    found = given.get("quantization_config")
    if found:
        method = found.get("quant_method", "unknown method") if isinstance(found, dict) else found
        yield RecipeError(
            f"{name}: config.json", f"the weights are stored quantised ({method})", "unquantised weights to merge into",
            "name the unquantised model, and set base_model.quantization to save memory in training",
        )  # fmt: skip


def _positions(recipe: Recipe, config: Any, longest: int) -> Iterator[RecipeError]:
    """A row takes `prompt.max_tokens` positions, and more where a kind writes more than it learns: `longest`."""
    found = getattr(config, "text_config", config)
    positions = getattr(found, "max_position_embeddings", None) or getattr(found, "max_seq_len", None)
    beyond = longest - recipe.prompt.max_tokens
    if isinstance(positions, int) and longest > positions:
        found = f"is {recipe.prompt.max_tokens}, the base model has {positions} positions" + (
            f", and written labels take {beyond} more" if beyond else ""
        )
        where, expected = f"{recipe.name}.yaml: prompt.max_tokens", f"at most {positions - beyond}"
        yield RecipeError(where, found, expected, "lower it" + (", or evaluate.max_new_tokens" if beyond else ""))


def _beyond_vocabulary(recipe: Recipe, tokens: Tokens) -> Iterator[RecipeError]:
    """A token that a prompt can hold and the model has no row for.

    Control tokens that nobody writes do no harm: Gemma 3's tokenizer has one more than its text models have rows.
    """
    rows, prompt = tokens.vocabulary, recipe.prompt
    if rows is None:
        return
    written = prompt.template + prompt.answer + (prompt.chat_template or "")
    silent = {token for token in tokens.control_tokens(written) if token not in written} | set(prompt.new_tokens)
    beyond = [(place, token) for token, place in tokens.ids_by_token().items() if place >= rows and token not in silent]
    beyond += [(place, tokens.decode([place])) for place in (tokens.bos_id, *tokens.end_ids) if place is not None and place >= rows]
    if recipe.kind == "chat" and not prompt.chat_template:
        turn = tokens.encode(render(recipe, tokens, [{"role": "user", "content": "a"}], "b"))
        beyond += [(place, tokens.decode([place])) for place in turn if place >= rows]
    if beyond:
        place, token = min(beyond)
        found = f"token {token!r} has the id {place}, the model has {rows} rows"
        yield RecipeError(f"{recipe.base_model.name}: tokenizer", found, "a row for each token", OTHER)


def _targets(recipe: Recipe, tensors: Tensors) -> Iterator[RecipeError]:
    """Layers that `lora.target_modules` names and the model does not have."""
    named = recipe.lora.target_modules
    if isinstance(named, str):
        return
    layers = {name.removesuffix(".weight").rpartition(".")[2] for name in tensors() if name.endswith(".weight")}
    if kind_of(recipe).HEAD == "causal":
        layers.add("lm_head")  # a head that shares the embedding's weight is not stored
    if layers and (missing := [target for target in named if target.rpartition(".")[2] not in layers]):
        where, known = f"{recipe.name}.yaml: lora.target_modules", ", ".join(sorted(layers))
        found = f"{missing[0]!r} is no layer of this base model"
        yield RecipeError(where, found, f"names of its layers ({known:.300})", "correct it, or set it to all-linear")
