"""Causal language models from a folder, on the device at hand, in numbers that it is fast in."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import ContractError
from tasks.model.memory import Shortage, room_for, shortage
from tasks.model.new_tokens import NewRows, initialise_rows, keep_bias
from tasks.model.tokenizer import TOKENIZER_FILES, Tokens
from tasks.schema.training import Quantization
from tasks.secrets.redaction import in_one_line

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


def load_model(
    folder: Path, dtype: str, classes: Sequence[str] = (), quantization: Quantization | None = None, rows: NewRows | None = None
) -> Any:
    """The model in a folder, as a user would load it: no remote code, safetensors only.

    With a head, its configuration names the token that its tokenizer pads with, also where the folder's names none or another.

    Args:
        folder: config and safetensors.
        dtype: of the recipe.
        classes: give the model a classification head over them in place of the vocabulary. A causal model in the folder has none:
            then it is drawn with torch's seed.
        quantization: pack the linear layers and make the model ready for an adapter to be trained on it: frozen, what is not packed
            in float32. Output layers and heads are not packed.
        rows: draw rows for tokens that are new to the model.

    Raises:
        ContractError: the folder holds no model that loads whole.
        RecipeError: it does not fit into memory.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading takes seconds, and its bar is noise in a log
    auto, options = AutoModelForCausalLM, _packed(quantization) if quantization else {}
    if classes:
        names = dict(enumerate(classes))
        auto = AutoModelForSequenceClassification
        options |= {"id2label": names, "label2id": {name: place for place, name in names.items()}}
    try:
        with room_for(folder), _packing_faults():
            model, report = auto.from_pretrained(
                folder, dtype=dtype_of(dtype), trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        detail = in_one_line(error)
        raise ContractError(str(folder), f"no loadable model ({detail})", "config and safetensors", "fetch or merge it again") from error
    drawn = {HEAD_WEIGHT} if classes and not _has_head(folder) else set()
    if missing := sorted(report["missing_keys"] - drawn):
        raise ContractError(str(folder), f"weights are missing: {missing[:5]}", "every weight of the model", "fetch or merge it again")
    if classes and any((folder / name).exists() for name in TOKENIZER_FILES):  # the head looks for a row's last token that is none
        model.config.get_text_config().pad_token_id = Tokens(folder).pad_id
    if drawn:
        _draw_head(model)
    with room_for(folder):
        if quantization:
            from peft import prepare_model_for_kbit_training

            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the trainer sees to checkpointing
        else:
            model = model.to(device())
    if rows:
        initialise_rows(model, rows)
    return model


def _packed(quantization: Quantization) -> dict[str, Any]:
    """Arguments of `from_pretrained` that pack a model while it is loaded, on its device."""
    import torch
    from transformers import BitsAndBytesConfig

    place = torch.cuda.current_device() if device() == "cuda" else "cpu"  # of several GPUs the one of this process
    return {"quantization_config": BitsAndBytesConfig(**quantization.model_dump()), "device_map": {"": place}}


@contextmanager
def _packing_faults() -> Iterator[None]:
    """While a model is packed: transformers writes the cause of a failure to its log only, and raises an error that does not name it.

    Raises:
        Shortage: the cause is a lack of memory.
    """
    from transformers.utils.logging import add_handler, remove_handler

    report = _Report()
    add_handler(report)
    try:
        yield
    except RuntimeError as error:
        if shortage(error) is None and (found := shortage(RuntimeError(report.text))):
            raise Shortage(found) from error
        raise
    finally:
        remove_handler(report)


class _Report(logging.Handler):
    """What is logged, as one text."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


def _draw_head(model: Any) -> None:
    """Draw the weight of a classification head on the processor, with torch's seed.

    The library draws it on the device that the weights are loaded to: a packed base on a GPU would begin with another head than the
    unpacked one that it is compared with.
    """
    import torch

    draw = torch.Generator().manual_seed(torch.initial_seed())
    weight = model.get_parameter(HEAD_WEIGHT)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=draw) * getattr(model.config, "initializer_range", 0.02))


def _has_head(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any("ForSequenceClassification" in name for name in config.get("architectures") or [])


def load_adapter(
    base: Path,
    adapter: Path,
    dtype: str,
    classes: Sequence[str] = (),
    rows: NewRows | None = None,
    quantization: Quantization | None = None,
) -> Any:
    """The base model with an adapter beside its weights (a PeftModel), every weight of the adapter in its place.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        dtype: of the recipe.
        classes: those of a classification head.
        rows: rows for tokens that are new to the model.
        quantization: pack the base as for its training; without it the base is whole, as the merge takes it.

    Raises:
        ContractError: the adapter does not fit the base.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    model = load_model(base, dtype, classes, quantization, rows)
    try:
        head = own_head(model, PeftConfig.from_pretrained(str(adapter)).target_modules)
        tuned = PeftModel.from_pretrained(model, str(adapter))
        # PEFT looks into the base's folder, of which the adapter knows only where it was in its training.
        tuned.peft_config[tuned.active_adapter].base_model_name_or_path = str(base)
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            saved = set(file.keys())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        detail = in_one_line(error)
        raise ContractError(str(adapter), f"not loadable on this base ({detail})", "its own adapter", "train again") from error
    if unmatched := saved ^ set(get_peft_model_state_dict(tuned, save_embedding_layers=False if head or rows else "auto")):
        raise ContractError(str(adapter), f"weights without a counterpart: {sorted(unmatched)[:5]}", "none", "train again")
    keep_bias(tuned)
    return tuned


def own_head(model: Any, targets: Any) -> bool:
    """Whether the output layer is among an adapter's targets; then it gets a weight of its own where it shares the embedding's.

    Otherwise the merge would put the adapter of the output layer into the embedding as well (peft issues 2018 and 2777).

    Args:
        model: a model, before the adapter is put in; where its weights are untied, its configuration says so afterwards.
        targets: PEFT's `target_modules`.
    """
    import torch

    head = model.get_output_embeddings()
    if head is None or not targets or isinstance(targets, str):  # all-linear leaves the output layer out
        return False
    if next(name for name, module in model.named_modules() if module is head).rpartition(".")[2] not in targets:
        return False
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        model.config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    return True


def save(model: Any, folder: Path) -> None:
    """Save a model or an adapter as safetensors, readable by whoever may read its configuration.

    The library leaves the weights readable to their owner alone, who need not be the one that serves them.
    """
    model.save_pretrained(folder, safe_serialization=True)
    configuration = next(folder.glob("*config.json"))
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(configuration, weights)
