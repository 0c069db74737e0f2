"""A lack of memory that is a real one: the kernel refuses, and torch's allocator says so."""

import gc
import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Adapter
from tasks.errors import OutOfMemoryError, RecipeError
from tasks.evaluation import scoring
from tasks.model import memory
from tasks.model.halving import within_memory
from tasks.registry import tracking
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.processes import apart, ended, step

pytestmark = pytest.mark.trains

LIMITED = """
import resource
from tasks.training import fit
plain = fit.load_model
def limited(*given, **named):
    found = plain(*given, **named)
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 250 * 2**20,) * 2)
    return found
fit.load_model = limited
"""
"""Once its model is there, a process gets no more than 250 MiB of address space beyond what it has."""


def test_torch_s_own_refusals_are_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert memory.shortage(refused.value) == "the machine's memory ran out (3,814,697,265.6 MiB more asked for)"
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB")
    assert memory.shortage(gpu) == "the GPU's memory ran out (2.50 GiB more asked for)"
    assert memory.shortage(RuntimeError("CUDA error: out of memory")) == "the GPU's memory ran out"
    assert memory.shortage(MemoryError()) == "the machine's memory ran out"
    assert memory.shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_what_the_work_held_is_gone_before_the_fault_is_raised(trained: Run) -> None:
    import torch

    held: list[weakref.ref[Any]] = []

    def work() -> None:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        torch.empty(10**15)

    with pytest.raises(OutOfMemoryError, match=r"a retry takes 4 rows a forward pass x 2, as many a step as before") as caught:
        within_memory(trained, trained.recipe, "train", work)
    gc.disable()
    try:
        assert held[0]() is None and caught.value.__context__ is None
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="^another$"):
        within_memory(trained, trained.recipe, "train", lambda: (_ for _ in ()).throw(RuntimeError("another")))


def test_a_model_that_does_not_fit_is_no_batch_s_fault(tmp_path: Path) -> None:
    import torch

    told = r"ran out .* while it was loaded \(expected: room for the whole model\)\. Fix: raise the memory"
    with pytest.raises(RecipeError, match=told), memory.room_for(tmp_path):
        torch.empty(10**15)


def test_a_training_takes_half_the_batch_and_ends_as_it_would_have(home: Path, tiny_base: Path) -> None:
    document = tiny.recipe_document(tiny_base, home / "none.csv")
    document["train"] |= {"per_device_train_batch_size": 2048, "loss_on": "sequence", "num_train_epochs": 2}
    rows = tiny.tweets(2108)  # 2,048 training rows: 0.7 GiB a forward and backward pass
    whole = tiny.start_at_train(home / "runs/tiny/whole", tiny_base, rows, document)
    short = tiny.start_at_train(home / "runs/tiny/short", tiny_base, rows, document)
    perform("train", whole)
    with step("train", short, code=LIMITED) as process:
        code, printed = ended(process, 300)
    assert code == 71, printed
    block = (
        r"\n\nOutOfMemoryError\ntrain: the machine's memory ran out( \([\d,.]+ MiB more asked for\))? with 2048 rows a forward pass x 1 "
        r"a step \(expected: a batch that fits\)\. Fix: a retry takes 1024 rows a forward pass x 2, as many a step as before\n$"
    )
    assert re.search(block, printed), printed
    assert json.loads((short.folder / "train.memory.json").read_text()) == {"generation": 0, "halvings": 1}
    again: Any = perform("train", short)
    assert again.halvings == 1 and again.steps == whole.read(Adapter).steps == 2
    assert again.final_loss == pytest.approx(whole.read(Adapter).final_loss, abs=1e-5) and apart(whole, short) < 1e-4
    logged = tracking.client().get_run(again.tracked.run_id).data.metrics
    assert [logged[f"train.{name}"] for name in ("micro_batch", "accumulation", "halvings")] == [1024, 2, 1]
    assert short.recipe.train.per_device_train_batch_size == 2048, "the frozen recipe is as it was"


def test_an_evaluation_halves_what_it_scores_at_once(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    size, plain = trained.recipe.evaluate.batch_size, scoring.predict

    def too_much(*given: Any) -> Any:
        torch.empty(10**15)

    monkeypatch.setattr(scoring, "predict", too_much)
    told = rf"^evaluate: the machine's memory ran out .* with {size} rows .*. Fix: a retry takes {size // 2} rows a forward pass$"
    with pytest.raises(OutOfMemoryError, match=told):
        perform("evaluate", trained)
    assert trained.halvings("evaluate") == 1
    monkeypatch.setattr(scoring, "predict", plain)
    perform("evaluate", trained)
    logged = tracking.client().get_run(trained.read(Adapter).tracked.run_id).data.metrics
    assert logged["evaluate.batch_size"] == size // 2
