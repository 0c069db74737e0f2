"""Causal language models from a folder, on the device at hand, in numbers that it is fast in."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ContractError

HEAD_WEIGHT = "score.weight"
"""Name of a classification head's weight, as transformers has it for decoders."""


def device() -> str:
    """`cuda` where there is a GPU, otherwise `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(choice: str) -> Any:
    """The torch dtype of a recipe's `dtype`.

    `auto` is bfloat16 on a GPU that has it and on a processor with AVX-512 BF16 or AMX; anywhere else float32, since other
    processors compute 16-bit numbers about a hundred times slower.
    """
    import torch

    if choice != "auto":
        return getattr(torch, choice)
    if device() == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def load_model(folder: Path, dtype: str, classes: Sequence[str] = ()) -> Any:
    """The model in a folder, as a user would load it: no remote code, safetensors only.

    Args:
        folder: config and safetensors.
        dtype: of the recipe.
        classes: give the model a classification head over them in place of the vocabulary. A causal model in the folder has none:
            then torch's random numbers draw it.

    Raises:
        ContractError: the folder holds no model that loads whole.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading takes seconds, and its bar is noise in a log
    auto, head = AutoModelForCausalLM, {}
    if classes:
        names = dict(enumerate(classes))
        auto, head = AutoModelForSequenceClassification, {"id2label": names, "label2id": {name: place for place, name in names.items()}}
    try:
        model, report = auto.from_pretrained(
            folder, dtype=dtype_of(dtype), trust_remote_code=False, use_safetensors=True, output_loading_info=True, **head
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        detail = " ".join(str(error).split())[:300]
        raise ContractError(
            str(folder), f"no loadable model ({detail})", "config and safetensors expected", "fetch or merge it again"
        ) from error
    drawn = {HEAD_WEIGHT} if classes and not _has_head(folder) else set()
    if missing := sorted(report["missing_keys"] - drawn):
        raise ContractError(
            str(folder), f"weights are missing: {missing[:5]}", "every weight of the model expected", "fetch or merge it again"
        )
    return model.to(device())


def _has_head(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any("ForSequenceClassification" in name for name in config.get("architectures") or [])


def load_adapter(base: Path, adapter: Path, dtype: str, classes: Sequence[str] = ()) -> Any:
    """The unquantised base model with an adapter beside its weights (a PeftModel), every weight of the adapter in its place.

    Raises:
        ContractError: the adapter does not fit the base.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    model = load_model(base, dtype, classes)
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            saved = set(file.keys())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        detail = " ".join(str(error).split())[:300]
        raise ContractError(str(adapter), f"not loadable on this base ({detail})", "its own adapter expected", "train again") from error
    if unmatched := saved ^ set(get_peft_model_state_dict(tuned)):
        raise ContractError(str(adapter), f"weights without a counterpart: {sorted(unmatched)[:5]}", "none expected", "train again")
    return tuned


def save(model: Any, folder: Path) -> None:
    """Save a model or an adapter as safetensors, readable by whoever may read its configuration.

    The library leaves the weights readable to their owner alone, who need not be the one that serves them.
    """
    model.save_pretrained(folder, safe_serialization=True)
    configuration = next(folder.glob("*config.json"))
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(configuration, weights)
