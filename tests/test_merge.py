"""The step `merge`: base plus adapter, every weight of it, in a folder that anybody can load."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tasks import merge as step
from tasks.contracts import Adapter, MergedModel
from tasks.errors import ContractError
from tasks.model.load import load_adapter, load_model
from tasks.model.tokenizer import Tokens
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

pytestmark = pytest.mark.trains


def tensors(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def test_merged_weights_are_base_plus_scaled_product(trained: Run, tiny_base: Path) -> None:
    manifest = trained.read(MergedModel)
    base, merged = tensors(tiny_base / "model.safetensors"), tensors(trained.path(manifest.path) / "model.safetensors")
    adapter = tensors(trained.path(trained.read(Adapter).path) / "adapter_model.safetensors")
    assert base.keys() == merged.keys()
    used = set()
    for name in base:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        pair = (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
        if pair[0] in adapter:
            used |= set(pair)
            expected = base[name] + (16 / 8) * adapter[pair[1]] @ adapter[pair[0]]  # alpha / r
            assert merged[name].allclose(expected, atol=1e-5) and not merged[name].equal(base[name])
        else:
            assert merged[name].equal(base[name]), f"{name} has no adapter and must not change"
    assert used == set(adapter)
    assert manifest.merged_weights == len(adapter) // 2 == 14


def test_the_folder_loads_alone_with_its_tokenizer(trained: Run, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "elsewhere"
    shutil.copytree(trained.path(trained.read(MergedModel).path), folder)
    assert load_model(folder, "float32").config.model_type == "gemma3_text"
    ids = AutoTokenizer.from_pretrained(folder)("a lovely table", add_special_tokens=False)["input_ids"]
    assert ids == Tokens(folder).encode("a lovely table")
    assert not list(folder.glob("*.bin"))


def test_a_weight_that_the_merge_passed_over_is_seen(trained: Run, tiny_base: Path) -> None:
    adapter = trained.path(trained.read(Adapter).path)
    tuned = load_adapter(tiny_base, adapter, "float32")
    expected = step._merged_slices(tuned)
    unmerged = load_model(tiny_base, "float32")
    with pytest.raises(ContractError, match=r"differs from base plus adapter \(expected: their sum\)"):
        step._check(unmerged, expected, adapter)
    with pytest.raises(ContractError, match=r"no adapted weight \(expected: at least one\)"):
        step._check(unmerged, {}, adapter)
    with pytest.raises(ContractError, match="left over from the adapter"):
        step._check(tuned, expected, adapter)


def test_an_adapter_with_a_number_that_is_not_finite_is_refused(trained: Run) -> None:
    from safetensors.torch import load_file, save_file

    file = trained.path(trained.read(Adapter).path) / "adapter_model.safetensors"
    changed = load_file(file)
    next(iter(changed.values()))[0, 0] = float("nan")
    file.unlink()
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(
        ContractError, match=r"holds numbers that are not finite \(expected: finite ones\)\. Fix: lower train.learning_rate"
    ):
        perform("merge", Run(trained.folder), generation=1)
    assert not (trained.folder / "merge.json").exists()


def test_an_adapter_of_another_model_is_refused(trained: Run) -> None:
    from safetensors.torch import load_file, save_file

    file = trained.path(trained.read(Adapter).path) / "adapter_model.safetensors"
    changed = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(ContractError, match="weights without a counterpart: .*layers.*. Fix: train again"):
        perform("merge", Run(trained.folder), generation=1)
