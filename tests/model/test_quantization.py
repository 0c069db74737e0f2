"""Bases in 4 and 8 bits, packed while an adapter is trained on them; `tests/training/test_architectures.py` trains on each recipe's."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import RecipeError, RecipeErrors
from tasks.model.load import load_model
from tasks.process.library_logs import REPEATED, quiet_libraries
from tasks.schema import load as recipes
from tasks.schema.training import Quantization
from tasks.training.fit import with_adapter
from tasks.workspace.perform import perform
from tests.support import tiny

pytestmark = pytest.mark.trains

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
EIGHT = {"load_in_8bit": True}
LINEAR = 7 * 2
"""Linear layers of the tiny Gemma: four of attention and three of the MLP, twice."""


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


def test_recomputed_activations_change_nothing(tiny_base: Path) -> None:
    """The base is frozen: without care no gradient would reach the adapter past a checkpointed layer."""
    import torch

    document = tiny.recipe_document(tiny_base, tiny_base / "none.csv")
    document["base_model"]["quantization"] = NF4
    recipe = recipes.resolve(document)
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


@pytest.fixture
def quiet() -> Iterator[None]:
    """The libraries as a command has them."""
    before = {name: logging.getLogger(name).level for name in REPEATED}
    quiet_libraries()
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_products_in_8_bits_do_not_fill_the_log(tiny_base: Path, quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    """On a processor only an evaluation takes the products that a GPU takes in training as well."""
    import torch

    model = load_model(tiny_base, "float32", (), Quantization(**EIGHT)).eval()
    with torch.no_grad():
        model(input_ids=torch.arange(2, 34).reshape(2, 16))
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")], "one warning a product"


def test_commands_quiet_the_libraries() -> None:
    code = f"""
import logging, sys
from tasks.cli import main
sys.argv = ["loraflow", "recipes"]
try:
    main()
except SystemExit:
    pass
print([logging.getLogger(name).isEnabledFor(logging.WARNING) for name in {REPEATED}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[False, False]"


def _no_room(*_: Any, **__: Any) -> Any:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.5 GiB")


@pytest.mark.parametrize("place", ["bitsandbytes.nn.Params4bit.to", "peft.prepare_model_for_kbit_training"])
def test_a_base_that_does_not_fit_while_it_is_packed_is_told_as_that(tiny_base: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers hides the first in a report in its log; neither is the fault of a batch, which a retry would halve for nothing."""
    monkeypatch.setattr(place, _no_room)
    with pytest.raises(RecipeError, match=r"the GPU's memory ran out \(2.50 GiB more asked for\) while it was loaded"):
        load_model(tiny_base, "float32", (), Quantization(**NF4))


def test_another_failure_to_pack_stays_what_it_is(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: invalid device function")

    monkeypatch.setattr("bitsandbytes.nn.Params4bit.to", fails)
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        load_model(tiny_base, "float32", (), Quantization(**NF4))


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({}, "neither of load_in_4bit and load_in_8bit is true (expected: exactly one). Fix: set one"),
        (NF4 | EIGHT, "both of load_in_4bit and load_in_8bit is true (expected: exactly one). Fix: set one"),
        (
            EIGHT | {"bnb_4bit_quant_type": "nf4"},
            "bnb_4bit_quant_type is given with load_in_8bit (expected: load_in_4bit with it). Fix: remove it",
        ),
        (
            {"load_in_4bits": True},
            "base_model.quantization.load_in_4bits is not a key of base_model.quantization. Fix: did you mean load_in_4bit?",
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
    with pytest.raises(
        RecipeError, match=r"train.fp16: is true on a processor \(expected: a GPU\)\. Fix: set it to false for this machine"
    ):
        perform("train", run)
