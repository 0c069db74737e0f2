"""Halved batches: the same rows a step, and an end where there is nothing left to halve."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import OutOfMemoryError, RecipeError
from tasks.model.halving import halved, lack_of_memory
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe


@pytest.fixture(scope="module")
def recipe(tiny_base: Any, tiny_csv: Any) -> Recipe:
    from tests.support import tiny

    return recipes.resolve(tiny.recipe_document(tiny_base, tiny_csv))


def sized(recipe: Recipe, size: int, passes: int = 1, scored: int = 8) -> Recipe:
    train = recipe.train.model_copy(update={"per_device_train_batch_size": size, "gradient_accumulation_steps": passes})
    return recipe.model_copy(update={"train": train, "evaluate": recipe.evaluate.model_copy(update={"batch_size": scored})})


@given(size=st.integers(1, 512), passes=st.integers(1, 16), halvings=st.integers(0, 12))
def test_a_step_keeps_its_rows(recipe: Recipe, size: int, passes: int, halvings: int) -> None:
    train = halved(sized(recipe, size, passes), halvings).train
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == size * passes
    assert train.per_device_train_batch_size <= max(size // 2**halvings, 1)


@pytest.mark.parametrize(("size", "expected"), [(8, [8, 4, 2, 1, 1]), (6, [6, 3, 1, 1]), (7, [7, 1]), (9, [9, 3, 1]), (12, [12, 6, 3, 1])])
def test_the_largest_divisor_up_to_the_half(recipe: Recipe, size: int, expected: list[int]) -> None:
    sizes = [halved(sized(recipe, size), times).train.per_device_train_batch_size for times in range(len(expected))]
    assert sizes == expected


def test_scored_batches_are_halved_too(recipe: Recipe) -> None:
    assert [halved(sized(recipe, 1, scored=7), times).evaluate.batch_size for times in range(4)] == [7, 3, 1, 1]


def test_the_fault_says_what_was_too_large_and_what_the_retry_takes(recipe: Recipe) -> None:
    fault = lack_of_memory(sized(recipe, 12, 2), "train", 1, "the GPU's memory ran out")
    assert isinstance(fault, OutOfMemoryError) and fault.exit_code == 71 and fault.retryable
    assert str(fault) == (
        "train: the GPU's memory ran out with 6 rows a forward pass x 4 a step (expected: a batch that fits). Fix: "
        "a retry takes 3 rows a forward pass x 8, as many a step as before"
    )
    scored = lack_of_memory(sized(recipe, 12, scored=5), "evaluate", 0, "memory ran out")
    assert str(scored).endswith("with 5 rows a forward pass (expected: a batch that fits). Fix: a retry takes 2 rows a forward pass")


def test_a_single_row_that_does_not_fit_is_final(recipe: Recipe) -> None:
    fault = lack_of_memory(sized(recipe, 3), "train", 1, "the GPU's memory ran out")
    assert isinstance(fault, RecipeError) and not fault.retryable
    assert str(fault) == (
        "tiny.yaml: train.per_device_train_batch_size: the GPU's memory ran out with 1 row a forward pass x 3 a step "
        "(expected: room for a single "
        "row). Fix: raise the memory (pods.resources.memory, or a larger GPU) or lower prompt.max_tokens, or set "
        "train.activation_checkpointing: true"
    )
    scores = lack_of_memory(sized(recipe, 1, scored=4), "sweep_trial", 0, "memory ran out")
    assert isinstance(scores, OutOfMemoryError) and str(scores).endswith("a retry takes 2 rows a forward pass"), "a trial scores as well"
    assert isinstance(lack_of_memory(sized(recipe, 1, scored=1), "sweep_trial", 0, "memory ran out"), RecipeError)
    assert isinstance(lack_of_memory(sized(recipe, 8, scored=2), "evaluate", 1, "memory ran out"), RecipeError)
