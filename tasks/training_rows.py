"""The rows of a training: drawn, as tokens, weighed by their classes."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import DataError
from tasks.kinds import Example, examples_of
from tasks.schema import Recipe
from tasks.tokens import Tokens


def training_examples(recipe: Recipe, tokens: Tokens, part: Path) -> tuple[list[Example], int]:
    """The training part as tokens: `train.rows` of it, drawn with the seed, each class by its share; and how many do not fit."""
    import pyarrow.parquet as pq

    rows = pq.read_table(part).to_pylist()
    chosen = draw_rows([row.get("label", "") for row in rows], recipe.train.rows, recipe.train.seed)
    if not chosen:
        raise DataError(str(part), "no rows", "at least one training row expected", "look at split's report")
    examples = [example for example in examples_of(recipe, tokens, [rows[index] for index in chosen]) if example is not None]
    if not examples:
        found = f"none of {len(chosen)} rows fits into {recipe.prompt.max_tokens} tokens"
        raise DataError(str(part), found, "room for answer and text expected", "raise prompt.max_tokens")
    return examples, len(chosen) - len(examples)


def held_out(recipe: Recipe, tokens: Tokens, part: Path | None) -> list[Example]:
    """The validation part as tokens, where the training is to be scored on it."""
    import pyarrow.parquet as pq

    if part is None:
        return []
    rows = pq.read_table(part).to_pylist()
    return [example for example in examples_of(recipe, tokens, rows) if example is not None]


def dataset(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Examples as transformers' Trainer takes them; it groups by the lengths of `input_ids`."""
    return [{"input_ids": example.prompt + example.answer, "example": example} for example in examples]


def with_class_weights(recipe: Recipe, examples: Sequence[Example]) -> Recipe:
    """The recipe with weights in place of `auto`: inverse frequency of each class in the training rows, their mean 1."""
    if recipe.train.class_weights != "auto":
        return recipe
    counts = Counter(example.answer[0] for example in examples)
    inverse = [1 / counts[place] for place in range(len(recipe.labels.names))]
    weights = tuple(value * len(inverse) / sum(inverse) for value in inverse)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"class_weights": weights})})


def draw_rows(labels: Sequence[str], count: int | None, seed: int) -> list[int]:
    """Indexes of `count` rows in shuffled order, every class by its share; all of them where count is None.

    Args:
        labels: (n_rows,) class of each row.
        count: how many rows to draw.
        seed: the same seed draws the same rows on any machine.

    Raises:
        DataError: there are fewer rows than asked for.
    """
    draw = random.Random(seed)  # noqa: S311 — a sample, not a secret
    if count is None:
        return draw.sample(range(len(labels)), len(labels))
    if count > len(labels):
        raise DataError("train.rows", f"{count:,} rows asked for", f"at most the {len(labels):,} of the training part", "ask for fewer")
    classes = {label: [row for row, found in enumerate(labels) if found == label] for label in sorted(set(labels))}
    exact = {label: count * len(rows) / len(labels) for label, rows in classes.items()}
    share = {label: math.floor(value) for label, value in exact.items()}
    by_remainder = sorted(classes, key=lambda label: (share[label] - exact[label], label))
    for label in by_remainder[: count - sum(share.values())]:
        share[label] += 1
    rows = [row for label, own in classes.items() for row in draw.sample(own, share[label])]
    return draw.sample(rows, len(rows))
