"""Bases in 4 and 8 bits: packed while an adapter is trained on them, whole wherever the result is made of them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks import recipe as recipes
from tasks import tracking
from tasks.contracts import Adapter, MergedModel
from tasks.errors import RecipeError, RecipeErrors
from tasks.models import load_model
from tasks.schema import Quantization
from tasks.steps import perform
from tasks.train import train
from tasks.trainer import with_adapter
from tasks.workspace import Run
from tests import tiny

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
EIGHT = {"load_in_8bit": True}
LINEAR = 7 * 2
"""Linear layers of the tiny Gemma: four of attention and three of the MLP, twice."""


def document(base: Path, quantization: dict[str, Any], optim: str) -> dict[str, Any]:
    """The tiny recipe on a packed base; at rank 64 its matrices are large enough for optimiser states in 8 bits."""
    found = tiny.recipe_document(base, base / "none.csv")
    found["base_model"]["quantization"] = quantization
    found["lora"] |= {"r": 64, "lora_alpha": 64}
    found["train"] |= {"optim": optim, "max_steps": 24, "save_steps": 12, "learning_rate": 2.0e-3}
    return found


@pytest.mark.parametrize("head", [(), ("a", "b", "c")], ids=["vocabulary", "head"])
@pytest.mark.parametrize(("choice", "kind", "bytes_a_weight"), [(NF4, "uint8", 0.5), (EIGHT, "int8", 1)], ids=["nf4", "int8"])
def test_linear_layers_are_packed_and_nothing_else(
    tiny_base: Path, choice: dict[str, Any], kind: str, bytes_a_weight: float, head: tuple[str, ...]
) -> None:
    whole = dict(load_model(tiny_base, "float32", head).named_parameters())
    packed = dict(load_model(tiny_base, "float32", head, Quantization(**choice)).named_parameters())
    assert whole.keys() == packed.keys()
    small = {name for name, weight in packed.items() if str(weight.dtype) == f"torch.{kind}"}
    assert len(small) == LINEAR and all("_proj" in name for name in small)
    for name, weight in packed.items():
        assert not weight.requires_grad
        size = weight.numel() * weight.element_size()
        assert size == whole[name].numel() * (bytes_a_weight if name in small else 4), name


def test_what_a_recipe_says_reaches_bitsandbytes(tiny_base: Path) -> None:
    import torch

    choice = Quantization(**NF4, bnb_4bit_compute_dtype="bfloat16")
    model = load_model(tiny_base, "float32", (), choice)
    layer = model.model.layers[0].mlp.gate_proj
    assert (layer.weight.quant_type, layer.weight.compress_statistics, layer.quant_state.nested) == ("nf4", True, True)
    assert (layer.compute_dtype, layer.weight.quant_storage) == (torch.bfloat16, torch.uint8)


@pytest.mark.parametrize(("choice", "optim"), [(NF4, "paged_adamw_8bit"), (EIGHT, "adamw_8bit")], ids=["nf4", "int8"])
def test_training_on_a_packed_base_resumes_and_merges_into_the_whole_one(
    home: Path, tiny_base: Path, choice: dict[str, Any], optim: str
) -> None:
    import torch

    run = tiny.start_at_train(home / "runs/tiny/packed", tiny_base, tiny.tweets(160), document(tiny_base, choice, optim))
    undisturbed = attempt(run, 1)
    losses = tracking.client().get_metric_history(undisturbed.tracked.run_id, "train.loss")
    assert losses[-1].value < losses[0].value / 2
    states = torch.load(run.kept / "checkpoint-12" / "optimizer.pt", weights_only=False)["state"].values()
    moments = [value for state in states for value in tensors(state) if value.numel() >= 64 * 64]
    assert moments and {value.dtype for value in moments} == {torch.uint8}

    shutil.rmtree(run.kept / "checkpoint-24")  # as if the process had died between the two
    resumed = attempt(run, 2)
    assert (undisturbed.resumed_from_step, resumed.resumed_from_step, resumed.steps) == (0, 12, 24)
    first, second = weights(run, undisturbed), weights(run, resumed)
    assert undisturbed.emissions and resumed.emissions and resumed.emissions.attempts == 2
    assert resumed.emissions.energy_kwh > undisturbed.emissions.energy_kwh, "what the first attempt spent counts"
    assert first.keys() == second.keys() and all(first[name].allclose(second[name], atol=1e-6) for name in first)

    run.write(resumed)
    perform("merge", run)
    merged, base = load_model(run.path(run.read(MergedModel).path), "float32"), load_model(tiny_base, "float32")
    assert not hasattr(merged.config, "quantization_config")
    name = "model.layers.1.mlp.down_proj"
    update = second[f"base_model.model.{name}.lora_B.weight"] @ second[f"base_model.model.{name}.lora_A.weight"]  # alpha / r is 1
    assert merged.get_submodule(name).weight.allclose(base.get_submodule(name).weight + update, atol=1e-5)


def attempt(run: Run, number: int) -> Adapter:
    """Train without the tidying up afterwards: checkpoints stay."""
    run.attempt, run.kept = run.folder / "train" / f"g0-a{number}", run.folder / "train" / "g0-kept"
    return train(run)


def tensors(state: dict[str, Any]) -> list[Any]:
    """The tensors of an optimiser's state; bitsandbytes nests those in 8 bits."""
    nested = [tensors(value) if isinstance(value, dict) else [value] for value in state.values()]
    return [value for values in nested for value in values if hasattr(value, "numel")]


def weights(run: Run, adapter: Adapter) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.path(adapter.path) / "adapter_model.safetensors")


def test_recomputed_activations_change_nothing(tiny_base: Path) -> None:
    """The base is frozen: without care no gradient would reach the adapter past a checkpointed layer."""
    import torch

    recipe = recipes.resolve(document(tiny_base, NF4, "adamw_torch"))
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = with_adapter(recipe, load_model(tiny_base, "float32", (), recipe.base_model.quantization))
        if recompute:
            model.activation_checkpointing_enable()
        model.train()
        ids = torch.arange(2, 34).reshape(2, 16)
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert len(grads[0]) == 2 * LINEAR and all(grads[1][name].allclose(grad, atol=1e-6) for name, grad in grads[0].items())
    assert any(grad.abs().max() > 0 for grad in grads[1].values())


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({}, "neither of load_in_4bit and load_in_8bit is true, exactly one expected; set one"),
        (NF4 | EIGHT, "both of load_in_4bit and load_in_8bit is true, exactly one expected; set one"),
        (
            EIGHT | {"bnb_4bit_quant_type": "nf4"},
            "bnb_4bit_quant_type is given with load_in_8bit, load_in_4bit expected with it; remove it",
        ),
        (
            {"load_in_4bits": True},
            "base_model.quantization.load_in_4bits is not a key of base_model.quantization; did you mean load_in_4bit?",
        ),
    ],
)
def test_a_bad_choice_is_refused_by_the_recipe(tiny_document: dict[str, Any], quantization: dict[str, Any], message: str) -> None:
    tiny_document["base_model"]["quantization"] = quantization
    with pytest.raises(RecipeErrors) as caught:
        recipes.resolve(tiny_document)
    assert message in str(caught.value)


def test_float16_without_a_gpu_is_refused(home: Path, tiny_base: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = tiny.recipe_document(tiny_base, home / "none.csv")
    found["train"]["fp16"] = True
    run = tiny.start_at_train(home / "runs/tiny/half", tiny_base, tiny.tweets(120), found)
    with pytest.raises(RecipeError, match="train.fp16: is true on a processor, a GPU expected; set it to false for this machine"):
        perform("train", run)
