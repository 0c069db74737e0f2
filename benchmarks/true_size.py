"""Speed and memory of a recipe's training at its true size, without weights and without a network.

    python -m benchmarks.true_size RECIPE          # on a GPU
    python -m benchmarks.true_size RECIPE --tiny   # the same path in seconds, anywhere

The recipe's base model is built with random weights from its public configuration, quantised as the recipe says, trained for some
steps on rows of the recipe's own batch and length, and merged. Random weights cost the same time and memory as trained ones. Rows of
new tokens, which need the tokenizer, are left out: two among millions of trained numbers.
"""

import argparse
import gc
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bases import BASES, configuration, write
from tasks.errors import LoraflowError, RecipeError
from tasks.kinds.base import Example, classes_of
from tasks.model.batches import IGNORED, collate, collate_classes
from tasks.model.load import device, load_adapter, load_model, save
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.training.fit import training_arguments, with_adapter

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "A6000": 155, "L40S": 362, "RTX 4090": 165, "RTX 3090": 71, "L4": 121, "T4": 65}
"""Device to its dense 16-bit tensor throughput with 32-bit sums, 10^12 operations a second, from NVIDIA's data sheets."""

WARM_UP_STEPS = 5
ANSWER_TOKENS = 8
TINY_TOKENS = 128
"""Longest row at tiny size."""


@dataclass(frozen=True)
class Measured:
    """What one recipe's training costs."""

    parameters: int
    """Of the base model."""
    trainable: int
    tokens_a_step: int
    tokens_per_second: float
    """Prompt and answer, after the warm-up steps."""
    peak_memory_gib: float
    """Of the training: on a GPU torch's highest mark, otherwise the process's."""
    first_loss: float
    last_loss: float
    merge_seconds: float

    def utilisation(self, peak_tflops: float) -> float:
        """Model FLOP utilisation: 6 operations a parameter and token (2 forward, 4 backward) over what the device can do.

        The usual rule, as for a training of all weights; an adapter on a frozen base spares the gradients of the base's weights
        (about 2 of the 6), and recomputed activations add 2 that the rule does not count.
        """
        return 6 * self.parameters * self.tokens_per_second / (peak_tflops * 1e12)


def measure(recipe: Recipe, folder: Path, *, steps: int, tiny: bool) -> Measured:
    """Build, quantise, train, merge.

    Args:
        recipe: resolved for the full profile.
        folder: an empty folder with room for the base model in 16 bits and its adapter.
        steps: optimiser steps; the first few do not count.
        tiny: shrink the base model.
    """
    import torch

    base, classes = folder / "base", classes_of(recipe)
    config = configuration(recipe.base_model.name, tiny=tiny)
    parameters = write(config, base, device())
    torch.manual_seed(recipe.train.seed)
    model = with_adapter(recipe, load_model(base, recipe.base_model.dtype, classes, recipe.base_model.quantization))
    trainable = model.get_nb_trainable_parameters()[0]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    losses, seconds = _train(recipe, model, folder / "checkpoints", steps, config.vocab_size)
    memory = _peak_memory_gib()
    save(model, folder / "adapter")
    del model
    gc.collect()  # the trainer's circle of references holds the packed model
    began = time.monotonic()
    load_adapter(base, folder / "adapter", recipe.base_model.dtype, classes).merge_and_unload()
    tokens = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps * recipe.prompt.max_tokens
    return Measured(
        parameters, trainable, tokens, tokens * (steps - WARM_UP_STEPS) / seconds, memory, losses[0], losses[-1], time.monotonic() - began
    )


def _train(recipe: Recipe, model: Any, folder: Path, steps: int, vocabulary: int) -> tuple[list[float], float]:
    """Losses, and the seconds of all steps but the first ones."""
    from transformers import PrinterCallback, Trainer, TrainerCallback

    short = {"max_steps": steps, "save_steps": steps + 1, "logging_steps": 1, "eval_strategy": "no", "metric_for_best_model": None}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=short)})
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append(time.monotonic())

    classes = classes_of(recipe)
    collator = partial(collate_classes, pad_id=0) if classes else partial(collate, pad_id=0, loss_on=recipe.train.loss_on)
    rows = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps * steps
    trainer = Trainer(
        model=model, args=training_arguments(recipe, folder), train_dataset=_rows(recipe, rows, vocabulary), data_collator=collator,
        compute_loss_func=_loss, callbacks=[Clock()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, marks[-1] - marks[WARM_UP_STEPS - 1]


def _rows(recipe: Recipe, count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Random rows, each as long as the recipe allows; an answer of a few tokens, or a class's number."""
    import torch

    draw, classes = torch.Generator().manual_seed(0), len(classes_of(recipe))
    rows = []
    for _ in range(count):
        ids = torch.randint(10, vocabulary, (recipe.prompt.max_tokens,), generator=draw).tolist()
        answer = [ids[0] % classes] if classes else ids[-ANSWER_TOKENS:]
        prompt = ids if classes else ids[:-ANSWER_TOKENS]
        rows.append({"input_ids": ids, "example": Example(prompt, answer, cut=False)})
    return rows


def _loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Cross-entropy over classes (B, C), or over what logits (B, K + 1, V) predict."""
    from torch.nn.functional import cross_entropy

    logits = outputs.logits[:, :-1] if outputs.logits.dim() == 3 else outputs.logits
    total = cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def _peak_memory_gib() -> float:
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def _recipe(name: str, *, tiny: bool) -> Recipe:
    """The recipe's full profile; at tiny size with short rows, and where there is no GPU without float16, which is said."""
    recipe = recipes.resolve(recipes.load(recipes.RECIPES / f"{name}.yaml"), "full")
    if recipe.base_model.name not in BASES:
        raise RecipeError(f"{name}.yaml: base_model.name", f"is {recipe.base_model.name}", f"one of {', '.join(BASES)}")
    if tiny:
        shorter = {"max_tokens": min(recipe.prompt.max_tokens, TINY_TOKENS)}
        recipe = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update=shorter)})
    if recipe.train.fp16 and device() == "cpu":
        print("no GPU: train.fp16 is off")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"fp16": False})})
    return recipe


def _device_name() -> str:
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "processor"


def _peak_tflops(given: float | None, name: str, *, tiny: bool) -> float | None:
    """Peak throughput of the device.

    Raises:
        RecipeError: it is not known, and at true size it is asked for.
    """
    found = given or next((value for key, value in PEAK_TFLOPS.items() if key in name), None)
    if found is None and not tiny:
        known = ", ".join(PEAK_TFLOPS)
        raise RecipeError("true_size", f"the peak throughput of {name} is not known", f"one of {known}", "give --peak-tflops")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure one recipe and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a recipe with a published base model")
    parser.add_argument("--steps", type=int, default=30, help=f"optimiser steps, more than {WARM_UP_STEPS}")
    parser.add_argument(
        "--tiny", action="store_true", help="a base model of the same family with two narrow layers, rows of at most 128 tokens"
    )
    parser.add_argument("--peak-tflops", type=float, help="the device's dense 16-bit throughput, where the table has it not")
    given = parser.parse_args(arguments)
    if given.steps <= WARM_UP_STEPS:
        parser.error(f"--steps is {given.steps} (expected: more than {WARM_UP_STEPS})")
    try:
        recipe, name = _recipe(given.recipe, tiny=given.tiny), _device_name()
        peak = _peak_tflops(given.peak_tflops, name, tiny=given.tiny)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(recipe, Path(folder), steps=given.steps, tiny=given.tiny)
    except LoraflowError as error:
        sys.exit(str(error))
    rows = {
        "device": name,
        "base model": f"{recipe.base_model.name}, {'tiny, ' if given.tiny else ''}{found.parameters:,} parameters",
        "trained": f"{found.trainable:,} parameters",
        "tokens a step": f"{found.tokens_a_step:,}",
        "tokens/s": f"{found.tokens_per_second:,.0f}",
        "peak memory": f"{found.peak_memory_gib:.2f} GiB",
        "model FLOP utilisation": f"{found.utilisation(peak):.1%} of {peak:g} TFLOP/s" if peak else "- (peak throughput not known)",
        "loss": f"{found.first_loss:.3f} at the first step, {found.last_loss:.3f} at the last",
        "merge": f"{found.merge_seconds:.1f} s",
    }
    print("\n".join(f"| {key} | {value} |" for key, value in rows.items()))


if __name__ == "__main__":
    main()
