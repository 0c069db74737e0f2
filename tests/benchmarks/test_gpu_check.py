"""benchmarks/gpu_check.py: all of it at tiny size, with a real SIGTERM; what its cases are at true size; how it fails."""

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, gpu_parts
from benchmarks.bases import BASES, configuration, on_paper, write_tokenizer
from tasks.model.tokenizer import Tokens

pytestmark = pytest.mark.trains

PARTS = ["base", "train", "merge", "parity", "stop", "resume"]
KNOWN_BY_NAME = {
    "base_model", "cases", "checkpoint_step", "dtype", "largest_loss_difference", "layers", "loss_fall", "loss_tolerance", "merged_weights",
    "parameters", "recipe", "resumed_from_step", "steps", "tokens_a_step", "trainable_parameters",
}  # fmt: skip
"""Keys of the result that the documentation need not explain."""

FALLING = [6.0 - step / 10 for step in range(gpu_parts.STEPS)]


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of the command."""
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(list(arguments))
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.fixture
def parts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run parts in this process, which has imported the libraries already; the training that is stopped keeps its own."""
    apart = gpu_check._run

    def run(command: Sequence[str], folder: Path, *given: Any) -> tuple[str, list[str]]:
        if command[0] != "benchmarks.gpu_parts":
            return apart(command, folder, *given)
        monkeypatch.setenv("LORAFLOW_HOME", str(folder))
        gpu_parts.main(list(command[1:]))
        return "ended with exit code 0", []

    monkeypatch.setattr(gpu_check, "_run", run)


def test_a_case_is_trained_stopped_resumed_merged_and_compared(
    home: Path, tmp_path: Path, parts_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = checked(capsys, "nf4", "--tiny", "--folder", str(tmp_path), "--out", str(tmp_path / "result.json"))
    assert code == 0 and found["ok"], found
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert found["size"] == "tiny" and found["remark"].endswith("tiny models: speed and memory mean nothing")
    assert re.match("[0-9a-f]{40}", found["code"])
    assert found["libraries"]["bitsandbytes"] and re.match(r"20\d\d-", found["date"])
    parts = found["cases"]["nf4"]
    assert list(parts) == PARTS and all(part["ok"] and part["seconds"] > 0 for part in parts.values())
    train, resume = parts["train"], parts["resume"]
    assert parts["base"]["base_model"] == "google/gemma-2-2b-it" and parts["base"]["parameters"] < 200_000
    assert (train["steps"], train["resumed_from_step"], len(train["losses"])) == (20, 0, 20)
    assert 5 <= parts["stop"]["checkpoint_step"] == resume["resumed_from_step"] < 20 == resume["steps"]
    assert resume["losses"] == pytest.approx(train["losses"], abs=1e-4) and resume["loss_fall"] >= 0.2
    assert train["tokens_a_step"] == 2 * 128 and train["tokens_per_second"] > 0 and train["host_gib"] > 0.1
    assert parts["parity"]["unquantised"]["same"] == parts["parity"]["unquantised"]["rows"] == 12
    assert not list(tmp_path.glob("gpu-check-*")), "gigabytes are left behind"
    page = (gpu_check.CHECKOUT / "docs/benchmarks.md").read_text(encoding="utf-8")
    keys = {key for level in (found, *parts.values()) for key in level} - KNOWN_BY_NAME
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_the_8_bit_case_trains_its_new_tokens(home: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    gpu_parts.main(["int8", str(tmp_path), str(report), "merge", "base", "train", "merge", "--tiny"])
    _, early, base, train, merge = map(json.loads, report.read_text().splitlines())
    assert not early["ok"] and early["error"].startswith("ContractError: ") and "recipe.yaml" in early["error"]
    assert base["ok"] and base["replaced_keys"]["train.fp16"] is False, "a part that fails does not stop the others"
    assert train["ok"] and train["losses"][0] - train["losses"][-1] > gpu_parts.LEAST_FALL
    assert merge["ok"] and (merge["dtype"], merge["merged_weights"]) == ("float16", 4)
    adapter = next((tmp_path / "runs/gitana/whole/train").glob("*/adapter/adapter_model.safetensors"))
    assert b"trainable_tokens" in adapter.read_bytes()


def test_at_true_size_the_cases_are_what_they_are_said_to_be() -> None:
    nf4, int8 = (gpu_parts.recipe_of(gpu_parts.CASES[case], Path("/base"), tiny=False, gpu=True) for case in ("nf4", "int8"))
    packed = nf4.base_model.quantization
    assert packed and (packed.bnb_4bit_quant_type, packed.bnb_4bit_use_double_quant, packed.bnb_4bit_compute_dtype) == (
        "nf4",
        True,
        "bfloat16",
    )
    assert (nf4.train.optim, nf4.train.activation_checkpointing, nf4.prompt.max_tokens) == ("paged_adamw_8bit", True, 192)
    assert int8.base_model.quantization and int8.base_model.quantization.load_in_8bit and int8.train.fp16
    assert int8.train.per_device_train_batch_size * int8.train.gradient_accumulation_steps * int8.prompt.max_tokens == 16 * 1024
    for recipe in (nf4, int8):
        assert (recipe.train.max_steps, recipe.train.eval_strategy, recipe.profile) == (20, "no", "full")
    small = on_paper(configuration("bertin-project/bertin-gpt-j-6B", layers=4))
    whole = BASES["bertin-project/bertin-gpt-j-6B"].parameters
    a_layer = 4 * 4096**2 + 2 * 4 * 4096**2 + 4 * 4096 + 4096 + 2 * 4096  # attention; MLP with its biases; the norm
    assert small.num_parameters() == whole - 24 * a_layer and small.config.n_embd == 4096


def test_a_made_up_tokenizer_has_the_true_number_of_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words = write_tokenizer(tmp_path, 5000)
    tokens = Tokens(tmp_path)
    text = "<start_of_turn>user\n여성/가족 w0 w17<end_of_turn>"
    assert len(tokens.encode(f" w{words - 1}")) == 1 and tokens.encode(f" w{words - 1}") == [4999]
    assert tokens.decode(tokens.encode(text)) == text
    assert (tokens.pad_id, tokens.eos_id, tokens.bos_id) == (0, 1, 2)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert len(found) == 5000 and found(text, add_special_tokens=False)["input_ids"] == tokens.encode(text)


@pytest.mark.parametrize(
    ("resumed", "resumed_from", "fault"),
    [
        (FALLING, 10, None),
        ([*FALLING[:-1], FALLING[-1] + 0.019], 10, None),
        ([*FALLING[:-1], FALLING[-1] + 0.03], 10, r"the losses differ by 0.0300 \(expected: at most 0.02\)"),
        ([*FALLING[:-1], math.nan], 10, r"the losses differ by nan"),
        (FALLING, 0, r"it resumed from step 0"),
        (FALLING, 20, r"it resumed from step 20"),
        (FALLING[:-1], 10, r"20 losses undisturbed, 19 resumed"),
    ],
)
def test_a_resumed_training_is_held_to_the_undisturbed_one(resumed: list[float], resumed_from: int, fault: str | None) -> None:
    if fault is None:
        assert gpu_parts.compared(FALLING, resumed, resumed_from)["largest_loss_difference"] <= 0.02
        return
    with pytest.raises(gpu_parts.Fault, match=fault) as caught:
        gpu_parts.compared(FALLING, resumed, resumed_from)
    assert caught.value.figures["losses"] == resumed


def test_a_loss_that_does_not_fall_cannot_tell_a_right_resume_from_a_wrong_one() -> None:
    flat = [6.0 - step / 1000 for step in range(gpu_parts.STEPS)]
    with pytest.raises(gpu_parts.Fault, match=r"the loss fell by 0.019 \(expected: 0.2 or more"):
        gpu_parts.compared(flat, flat, 10)


def test_what_does_not_come_to_run_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checked(capsys, "--tiny", "--seconds", "0", "--folder", str(tmp_path))
    assert code == 1 and not found["ok"]
    assert {case: list(parts) for case, parts in found["cases"].items()} == {"nf4": PARTS, "int8": PARTS}
    for parts in found["cases"].values():
        assert all("no time was left. Fix: raise --seconds" in part["error"] for part in parts.values())


def test_parts_have_a_process_of_their_own(tmp_path: Path) -> None:
    about, parts = gpu_check._perform("nf4", tmp_path, ["merge", "parity"], tiny=True, deadline=time.monotonic() + 300)
    assert about["libraries"]["torch"] and about["size"] == "tiny"
    assert all(part["error"].startswith("ContractError: ") for part in parts.values()), "there is no run yet"
    assert list(parts) == ["merge", "parity"] and not any(part["ok"] for part in parts.values())


def test_how_a_process_ends_is_told(tmp_path: Path) -> None:
    later = time.monotonic() + 60
    assert gpu_check._run(["json.tool", str(tmp_path / "missing")], tmp_path, later)[0] in (
        "ended with exit code 1",
        "ended with exit code 2",
    )
    serving = ["http.server", "0", "--bind", "127.0.0.1"]
    assert gpu_check._run(serving, tmp_path, later, lambda: True)[0] == "ended by SIGTERM"
    assert gpu_check._run(serving, tmp_path, time.monotonic() + 1)[0] == "was ended: no time was left. Fix: raise --seconds"


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["nf5"])
    assert "there is no case nf5 (expected: nf4 or int8)" in capsys.readouterr().err
