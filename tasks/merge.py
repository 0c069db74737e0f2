"""Merge the adapter into the unquantised base model.

Reads   Download, Adapter     runs/<id>/download.json, train.json
Uses    base_model.dtype      of the recipe
Writes  MergedModel           runs/<id>/merge.json
"""

import shutil
from pathlib import Path
from typing import Any

from tasks.contracts import Adapter, Download, MergedModel
from tasks.errors import ContractError
from tasks.kinds.base import classes_of
from tasks.model.load import load_adapter, save
from tasks.model.new_tokens import new_rows
from tasks.model.tokenizer import TOKENIZER_FILES
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run

SLICE_ROWS = 8


def merge(run: Run) -> MergedModel:
    """Merge the adapter into the base model and save both as one, with its tokenizer, ready to be loaded by anybody."""
    base = run.path(run.read(Download).base_model.path)
    adapter = run.path(run.read(Adapter).path)
    folder, rows = run.attempt / "model", new_rows(run.recipe, base)
    with Progress(run, "merge", "loading, merging, saving", 3, "parts") as progress:
        tuned = load_adapter(base, adapter, run.recipe.base_model.dtype, classes_of(run.recipe), rows)
        progress.advance()
        expected, biases, tokens = _merged_slices(tuned), _trained_biases(adapter), _trained_tokens(tuned)
        merged = tuned.merge_and_unload()
        _check(merged, expected, adapter)
        _check_biases(merged, biases)
        _check_tokens(merged, tokens)
        progress.advance()
        save(merged, folder)
        for name in TOKENIZER_FILES:
            if ((adapter if rows else base) / name).exists():
                shutil.copyfile((adapter if rows else base) / name, folder / name)
        progress.advance()
    return MergedModel(path=run.relative(folder), dtype=str(merged.dtype).removeprefix("torch."), merged_weights=len(expected))


def _merged_slices(tuned: Any) -> dict[str, Any]:
    """The first rows of what each adapted weight must be after the merge, by the module's name in the base model.

    Computed here from the adapter's own weights, so that an adapter which the merge passes over is seen.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    expected = {}
    for name, module in tuned.base_model.model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):  # trained in full: a head
            expected[name] = module.modules_to_save[tuned.active_adapter].weight[:SLICE_ROWS].detach().clone()
        elif isinstance(module, LoraLayer):
            delta = module.get_delta_weight(tuned.active_adapter)
            weight = module.get_base_layer().weight
            expected[name] = (weight[:SLICE_ROWS].float() + delta[:SLICE_ROWS].float()).to(weight.dtype).detach().clone()
    return expected


def _trained_tokens(tuned: Any) -> dict[str, tuple[list[int], Any]]:
    """The rows of new tokens that were trained: the module's name in the base model to the rows' numbers and what they must be."""
    from peft.utils.other import TrainableTokensWrapper

    adapters = {
        name: module.token_adapter for name, module in tuned.base_model.model.named_modules() if isinstance(module, TrainableTokensWrapper)
    }
    at = tuned.active_adapter
    return {name: (each.token_indices[at], each.trainable_tokens_delta[at].detach().clone()) for name, each in adapters.items()}


def _check_tokens(merged: Any, trained: dict[str, tuple[list[int], Any]]) -> None:
    """Raise ContractError where the trained row of a new token did not come through the merge."""
    for name, (ids, rows) in trained.items():
        found_rows = merged.get_submodule(name).weight[ids]
        if not found_rows.equal(rows.to(found_rows)):  # trained in float32, kept in the base's numbers
            found = "differs from the adapter's rows"
            raise ContractError(f"merge: {name}", found, "the trained rows", "report this, with the recipe")


def _trained_biases(adapter: Path) -> dict[str, Any]:
    """The biases that were trained with the adapter, by their names in the base model."""
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.endswith(".bias") and ".lora_" not in name]  # noqa: SIM118
        return {name.removeprefix("base_model.model.").replace(".base_layer.", "."): file.get_tensor(name) for name in names}


def _check_biases(merged: Any, trained: dict[str, Any]) -> None:
    """Raise ContractError where a trained bias did not come through the merge."""
    import torch

    for name, bias in trained.items():
        found = merged.get_parameter(name)
        if not torch.allclose(found, bias.to(found.device, found.dtype), rtol=1e-3, atol=1e-5):
            raise ContractError(f"merge: {name}", "differs from the adapter's", "the trained bias", "report this, with the recipe")


def _check(merged: Any, expected: dict[str, Any], adapter: Path) -> None:
    """Raise ContractError where a weight is not what base and adapter give, an adapter is left over, or a number is not finite."""
    import torch

    if not expected:
        raise ContractError(str(adapter), "no adapted weight", "at least one", "train again")
    for name, weight in merged.named_parameters():
        if "lora_" in name:
            raise ContractError(f"merge: {name}", "left over from the adapter", "a plain base model", "report this, with the recipe")
        if not torch.isfinite(weight).all():
            raise ContractError(f"merge: {name}", "holds numbers that are not finite", "finite ones", "lower train.learning_rate")
    for name, rows in expected.items():
        found = merged.get_submodule(name).weight[:SLICE_ROWS]
        if not torch.allclose(found, rows, rtol=1e-3, atol=1e-5):
            raise ContractError(f"merge: {name}", "differs from base plus adapter", "their sum", "report this, with the recipe")
