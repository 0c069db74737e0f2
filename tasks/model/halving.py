"""Smaller batches after a lack of memory: less at once, and more often, so that an optimiser step's rows stay the same.

How often a step's batches were halved is state of its attempts (`Run.halvings`); the frozen recipe and its hash stay as they are.
"""

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import OutOfMemoryError, RecipeError
from tasks.model.memory import free, shortage
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    from tasks.workspace.run import Run

T = TypeVar("T")

TRAINING = ("train", "sweep_trial")
"""Steps that train; of the others `evaluate` has batches."""


def within_memory(run: "Run", recipe: Recipe, step: str, work: Callable[[], T]) -> T:
    """What the work returns; where memory runs out in it, a fault that says what the retry takes.

    Before it is raised, what the work held is given back, and the lack is noted for the next attempt of this generation.

    Args:
        run: whose step it is.
        recipe: the frozen one, or as the trial has it.
        step: whose batches may be too large.
        work: the work.

    Raises:
        OutOfMemoryError: a retry with smaller batches may fit.
        RecipeError: there is nothing left to halve.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if (found := shortage(error)) is None:
            raise
        traceback.clear_frames(error.__traceback__)
    free()
    fault = lack_of_memory(recipe, step, run.halvings(step), found)
    if isinstance(fault, OutOfMemoryError):
        run.note_out_of_memory(step)
    raise fault  # out here, it keeps nothing alive that was meant to go


def halved(recipe: Recipe, halvings: int) -> Recipe:
    """The recipe with its batches halved so many times.

    Of rows a forward pass the largest divisor that is not above the half: 8 → 4 → 2 → 1, 6 → 3 → 1, 7 → 1. So forward passes a step
    can make up for it exactly. Batches that are scored need no such thing: 7 → 3 → 1.
    """
    size, passes, scored = recipe.train.per_device_train_batch_size, recipe.train.gradient_accumulation_steps, recipe.evaluate.batch_size
    rows = size * passes
    for _ in range(halvings):
        size, scored = _next(size), max(scored // 2, 1)
    trained = {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=trained),
            "evaluate": recipe.evaluate.model_copy(update={"batch_size": scored}),
        }
    )


def lack_of_memory(recipe: Recipe, step: str, halvings: int, found: str) -> OutOfMemoryError | RecipeError:
    """The fault of a step whose batch did not fit: one that the retry mends, or a final one where a single row is too much.

    Args:
        recipe: the frozen one.
        step: which step it was.
        halvings: how often its batches had been halved.
        found: who ran out of memory, and how.
    """
    now, then = halved(recipe, halvings), halved(recipe, halvings + 1)
    size, passes = now.train.per_device_train_batch_size, now.train.gradient_accumulation_steps
    smaller, more = then.train.per_device_train_batch_size, then.train.gradient_accumulation_steps
    had, takes = f"{_rows(size)} x {passes} a step", f"{_rows(smaller)} x {more}, as many a step as before"
    if step not in TRAINING or (step == "sweep_trial" and size == 1 < now.evaluate.batch_size):  # a trial scores as well
        size, smaller = now.evaluate.batch_size, then.evaluate.batch_size
        had, takes = _rows(size), _rows(smaller)
    if size > 1:
        return OutOfMemoryError(step, f"{found} with {had}", "a batch that fits", f"a retry takes {takes}")
    key = "train.per_device_train_batch_size" if step in TRAINING else "evaluate.batch_size"
    remedy = "raise the memory (pods.resources.memory, or a larger GPU) or lower prompt.max_tokens"
    if step in TRAINING and not recipe.train.activation_checkpointing:
        remedy += ", or set train.activation_checkpointing: true"
    return RecipeError(f"{recipe.name}.yaml: {key}", f"{found} with {had}", "room for a single row", remedy)


def _next(size: int) -> int:
    return next(part for part in range(max(size // 2, 1), 0, -1) if size % part == 0)


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''} a forward pass"
