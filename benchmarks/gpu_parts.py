"""The parts of `benchmarks.gpu_check` that one process runs: it appends one line of JSON for each part to its report.

    python -m benchmarks.gpu_parts CASE FOLDER REPORT PART ...

Each part is a step of the product on a run in FOLDER, performed as the step's command performs it. A part that fails does not stop
the parts after it.
"""

import argparse
import json
import math
import platform
import random
import resource
import shutil
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.bases import configuration, on_paper, write, write_tokenizer
from tasks.contracts import Adapter, BaseModelFiles, DatasetVersion, Download, Evaluation, MergedModel, Parity, Part
from tasks.errors import ServiceError
from tasks.evaluation import gate
from tasks.model import memory
from tasks.model.load import device
from tasks.process.library_logs import quiet_libraries
from tasks.registry import tracking
from tasks.registry.lineage import code_commit
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.settings import CHECKOUT
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

STEPS = 20
SAVE_STEPS = 5
WARM_UP_STEPS = 5
"""Steps whose speed does not count."""

TEST_ROWS = 12

LOSS_TOLERANCE = 0.02
"""Largest difference of a step's loss between the resumed training and the undisturbed one, nats a token."""

LEAST_FALL = 10 * LOSS_TOLERANCE
"""Least fall of the loss. With less, a training that resumed from a wrong state would pass as well."""

WHOLE, CUT = "whole", "cut"
"""Names of the two runs of a case: one is not disturbed, the other one gets SIGTERM and resumes."""

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "mlflow")


@dataclass(frozen=True)
class Case:
    """A published recipe on a base model of its architecture with random weights."""

    recipe: str
    layers: int | None
    """Layers of the base model, where it has fewer than the published one."""
    spare: int
    """Rows of the embedding beyond the tokenizer's, for new tokens."""


CASES = {
    "nf4": Case("unsmile", layers=None, spare=0),  # Gemma 2 2B; NF4, double quantisation, bfloat16; paged 8-bit AdamW
    "int8": Case("gitana", layers=4, spare=143),  # GPT-J 6B, 4 of 28 layers; LLM.int8; float16 with loss scaling; new tokens
}


def changes_of(case: Case, base: Path, *, tiny: bool, gpu: bool) -> dict[str, Any]:
    """The recipe's keys that the check replaces, with their values."""
    found = {
        "base_model.name": f"folder:{base}",
        "train.max_steps": STEPS,
        "train.learning_rate": 1e-2 if tiny else 1e-3,  # high, so that the loss falls in a few steps
        "train.save_steps": SAVE_STEPS,
        "train.logging_steps": 1,
        "train.eval_strategy": "no",
        "train.eval_steps": None,
        "evaluate.max_new_tokens": 48,
        "evaluate.resamples": 100,
    }
    if tiny:
        found |= {"prompt.max_tokens": 128, "train.per_device_train_batch_size": 1, "train.gradient_accumulation_steps": 2}
    if not gpu and recipes.load(_file(case))["train"].get("fp16"):
        found["train.fp16"] = False
    return found


def recipe_of(case: Case, base: Path, *, tiny: bool, gpu: bool) -> Recipe:
    """The case's recipe in the full profile, with what the check replaces."""
    return recipes.resolve(recipes.load(_file(case)), "full", changes_of(case, base, tiny=tiny, gpu=gpu))


def run_of(folder: Path, case: Case, name: str) -> Run:
    """One of the case's runs, WHOLE or CUT; `base` makes both."""
    return Run(folder / "runs" / case.recipe / name)


def about(tiny: bool) -> dict[str, Any]:
    """Device, libraries, and what the figures are worth."""
    import torch

    libraries = {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version(), "cuda": torch.version.cuda}
    commit, changed = code_commit(CHECKOUT)
    made_with = {"code": f"{commit}, changed" if changed else commit, "libraries": libraries}
    remark = "tiny models: speed and memory mean nothing" if tiny else ""
    if not torch.cuda.is_available():
        return {"device": "processor", "size": "tiny", "remark": f"no GPU; {remark}", **made_with}
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": card.name,
        "device_memory_gib": _gib(card.total_memory),
        "compute_capability": f"{card.major}.{card.minor}",
        "driver": _driver(),
        "size": "tiny" if tiny else "true",
        "remark": remark,
        **made_with,
    }


def base(case: Case, folder: Path, tiny: bool) -> dict[str, Any]:
    """Make the base model, its tokenizer, and the two runs up to `version`."""
    name = recipes.load(_file(case))["base_model"]["name"]
    config = configuration(name, tiny=tiny, layers=case.layers)
    _check_room(folder, on_paper(config).num_parameters())
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, 2
    made = folder / "base"
    parameters = write(config, made, device())
    words = write_tokenizer(made, config.vocab_size - (min(case.spare, 8) if tiny else case.spare))
    recipe = recipe_of(case, made, tiny=tiny, gpu=device() == "cuda")
    for each in (WHOLE, CUT):
        _begin(run_of(folder, case, each), recipe, made, words)
    return {
        "base_model": name,
        "parameters": parameters,
        "layers": config.num_hidden_layers,
        "recipe": case.recipe,
        "replaced_keys": changes_of(case, made, tiny=tiny, gpu=device() == "cuda") | {"base_model.name": "random weights"},
    }


def train(case: Case, folder: Path, tiny: bool) -> dict[str, Any]:
    """Train without a disturbance."""
    return _trained(run_of(folder, case, WHOLE))


def merge(case: Case, folder: Path, tiny: bool) -> dict[str, Any]:
    """Merge the adapter into the unquantised base."""
    found = perform("merge", run_of(folder, case, WHOLE))
    assert isinstance(found, MergedModel)
    return {"dtype": found.dtype, "merged_weights": found.merged_weights}


def parity(case: Case, folder: Path, tiny: bool) -> dict[str, Any]:
    """Evaluate, and compare the merged model with the adapter on the base, unquantised and quantised."""
    run = run_of(folder, case, WHOLE)
    found = perform("evaluate", run)
    assert isinstance(found, Evaluation) and found.quantized
    figures = {"unquantised": _parity(found.parity), "quantised": _parity(found.quantized)}
    if not gate.parity_holds(found.parity):
        raise Fault("merged model and adapter answer differently", figures)
    if not math.isfinite(found.quantized.largest_difference):
        raise Fault("the adapter's scores on the quantised base are not finite", figures)
    return figures


def resume(case: Case, folder: Path, tiny: bool) -> dict[str, Any]:
    """Resume the training that SIGTERM stopped, and compare its losses with those of the undisturbed one."""
    figures = _trained(run_of(folder, case, CUT))
    undisturbed = _losses(run_of(folder, case, WHOLE).read(Adapter))
    return figures | compared(undisturbed, figures["losses"], figures["resumed_from_step"])


PARTS: dict[str, Callable[[Case, Path, bool], dict[str, Any]]] = {
    part.__name__: part for part in (base, train, merge, parity, resume)
}  # fmt: skip


class Fault(Exception):
    """A part ran to its end, and what it found is wrong.

    Args:
        text: what is wrong.
        figures: what was found.
    """

    def __init__(self, text: str, figures: dict[str, Any]) -> None:
        super().__init__(text)
        self.figures = figures


def compared(undisturbed: list[float], resumed: list[float], resumed_from: int) -> dict[str, Any]:
    """How far the losses of a resumed training are from those of an undisturbed one.

    Args:
        undisturbed: (n_steps,) losses.
        resumed: (n_steps,) losses, of the steps before and after SIGTERM.
        resumed_from: the step of the checkpoint.

    Raises:
        Fault: they differ, it did not resume, or the loss fell too little to tell.
    """
    apart = [abs(one - other) for one, other in zip(undisturbed, resumed, strict=False)]
    largest = max(apart, default=math.nan, key=lambda difference: (math.isnan(difference), difference))
    figures = {
        "largest_loss_difference": _finite(largest),
        "loss_tolerance": LOSS_TOLERANCE,
        "loss_fall": round(undisturbed[0] - min(undisturbed), 4) if undisturbed else 0.0,
        "losses": resumed,
        "resumed_from_step": resumed_from,
    }
    if not 0 < resumed_from < STEPS:
        raise Fault(f"it resumed from step {resumed_from} (expected: a step before {STEPS}, after 0)", figures)
    if not len(undisturbed) == len(resumed) == STEPS:
        raise Fault(f"{len(undisturbed)} losses undisturbed, {len(resumed)} resumed (expected: {STEPS} of each)", figures)
    if not largest <= LOSS_TOLERANCE:
        raise Fault(f"the losses differ by {largest:.4f} (expected: at most {LOSS_TOLERANCE})", figures)
    if figures["loss_fall"] < LEAST_FALL:
        raise Fault(f"the loss fell by {figures['loss_fall']} (expected: {LEAST_FALL} or more, to tell a wrong resume)", figures)
    return figures


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    """Version of NVIDIA's driver; where it does not tell, its error. No part needs it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return f"unknown ({error})"


def _file(case: Case) -> Path:
    return recipes.RECIPES / f"{case.recipe}.yaml"


def _check_room(folder: Path, parameters: int) -> None:
    """Raise ServiceError where base, merged model and checkpoints do not fit on the disk."""
    needed, free = 6 * parameters, shutil.disk_usage(folder).free
    if free < needed:
        found = f"{free / 1e9:.1f} GB free"
        raise ServiceError(str(folder), found, f"{needed / 1e9:.1f} GB", "free space, or name another folder: --folder")


def _begin(run: Run, recipe: Recipe, base: Path, words: int) -> None:
    """Everything that `train` reads: frozen recipe, base model, and a data set of made-up rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    run.folder.mkdir(parents=True)
    run.freeze(recipe)
    link_or_copy(base, run.folder / "base")
    a_step = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    first, names, parts = recipe.labels.names[0], recipe.labels.names, {}
    # One label for all training rows: the adapter learns it for sure, and no rounding decides what the parity rows are answered with.
    for part, labels in (("train", [first] * STEPS * a_step), ("test", [names[row % len(names)] for row in range(TEST_ROWS)])):
        rows = _rows(recipe, labels, words, seed=len(labels))
        pq.write_table(pa.Table.from_pylist(rows), run.folder / f"{part}.parquet")
        parts[part] = Part(f"{part}.parquet", len(rows), dict(Counter(labels)))
    run.write(Download(BaseModelFiles(recipe.base_model.name, "0" * 64, "base"), source=None))
    tag = f"data/{recipe.name}/v1"
    run.write(DatasetVersion(tag, 1, True, f"{'0' * 32}.dir", "0" * 40, "made by gpu_check", parts, None))  # type: ignore[arg-type]


def _rows(recipe: Recipe, labels: list[str], words: int, seed: int) -> list[dict[str, Any]]:
    """Rows of random words from the whole vocabulary; each text is longer than the prompt allows, so that each row has max_tokens."""
    draw, length = random.Random(seed), recipe.prompt.max_tokens  # noqa: S311 — made-up data, no secret
    answers = {column: " ".join(f"w{number}" for number in range(20)) for column in recipe.data.answers()}
    texts = [" ".join(f"w{draw.randrange(words)}" for _ in range(length)) for _ in labels]
    return [
        {"row": place + 2, "text": text, "label": label, **answers} for place, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


def _trained(run: Run) -> dict[str, Any]:
    """Train a run to its end, or to the end from its checkpoint."""
    adapter = perform("train", run)
    assert isinstance(adapter, Adapter)
    speeds = tracking.history(adapter.tracked, "train.tokens_per_second")
    losses, counted = _losses(adapter), [speed for step, speed in speeds.items() if step > WARM_UP_STEPS]
    figures = {
        "steps": adapter.steps,
        "resumed_from_step": adapter.resumed_from_step,
        "trainable_parameters": adapter.trainable_parameters,
        "tokens_a_step": run.recipe.train.per_device_train_batch_size
        * run.recipe.train.gradient_accumulation_steps
        * run.recipe.prompt.max_tokens,
        "tokens_per_second": round(statistics.median(counted), 1) if counted else None,
        "losses": losses,
    }
    if adapter.steps != STEPS or len(losses) != STEPS:
        raise Fault(f"{adapter.steps} steps, {len(losses)} losses (expected: {STEPS} of each)", figures)
    return figures


def _losses(adapter: Adapter) -> list[float]:
    return [round(loss, 6) for loss in tracking.history(adapter.tracked, "train.loss").values()]


def _parity(found: Parity) -> dict[str, Any]:
    return {"rows": found.rows, "same": found.same_labels, "largest_difference": _finite(found.largest_difference)}


def _measured(part: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the part returns, its time and its peak memory; where it fails, why."""
    import torch

    gpu, began = torch.cuda.is_available(), time.monotonic()
    if gpu:
        memory.free()
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, Any]
    try:
        found = {"ok": True, **work()}
    except Fault as fault:
        found = {"ok": False, "error": str(fault), **fault.figures}
    except Exception as error:
        traceback.print_exc()
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    if gpu:
        found |= {"gpu_gib": _gib(torch.cuda.max_memory_allocated()), "gpu_reserved_gib": _gib(torch.cuda.max_memory_reserved())}
    # Linux counts in KiB; the mark is the process's, so it never falls from one part to the next.
    found["host_gib"] = _gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return {"part": part, **found, "seconds": round(time.monotonic() - began, 1)}


def _finite(number: float) -> float | None:
    """Six significant digits; None where it is no finite number, which JSON has no word for."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _gib(number: int) -> float:
    return round(number / 2**30, 2)


def main(arguments: list[str] | None = None) -> None:
    """Run the parts of a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    quiet_libraries()
    tiny = given.tiny or device() == "cpu"
    with given.report.open("a", encoding="utf-8") as report:
        for line in (
            lambda: {"about": about(tiny)},
            *(lambda part=part: _measured(part, lambda: PARTS[part](CASES[given.case], given.folder, tiny)) for part in given.parts),
        ):
            print(json.dumps(line()), file=report, flush=True)


if __name__ == "__main__":
    main()
