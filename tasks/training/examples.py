"""The rows of a training: drawn, as tokens, weighed by their classes."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.data import parquet
from tasks.data.partition import Origin
from tasks.errors import DataError
from tasks.kinds.base import Example, examples_of
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

ROWS = "rows.parquet"
"""The file that says which rows were trained on."""


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a training."""

    examples: list[Example]
    origins: list[Origin]
    """(n_examples,) where each of them stands in the data set's files; a row that balances a class stands there more than once."""
    left_out: int
    """Rows that were drawn, but do not fit."""

    def write(self, path: Path, passes: Sequence[int]) -> None:
        """Write them as a table, a line for each row of the data set, in the files' order.

        Its columns are `file` and `row`, which together name a row of the data set's training part; `cut`, whether its text was cut to
        fit; `times`, how often it is among the rows of an epoch; `passes`, how often the training passed over it, 0 where it ended
        before.

        Args:
            path: the file.
            passes: (n_examples,) how often the training passed over each example.
        """
        import pyarrow as pa

        times, passed, cut = Counter(self.origins), Counter[Origin](), {}
        for origin, example, count in zip(self.origins, self.examples, passes, strict=True):
            passed[origin] += count
            cut[origin] = example.cut
        rows = sorted(times)
        columns = {
            "row": pa.array([row for _, row in rows], pa.int64()),
            "file": pa.array([file for file, _ in rows], pa.string()),
            "cut": pa.array([cut[origin] for origin in rows], pa.bool_()),
            "times": pa.array([times[origin] for origin in rows], pa.int64()),
            "passes": pa.array([passed[origin] for origin in rows], pa.int64()),
        }
        parquet.write_table(path, pa.table(columns))


def training_rows(recipe: Recipe, tokens: Tokens, part: Path) -> TrainingRows:
    """The training part as tokens: `train.rows` of it, drawn with the seed, each class by its share."""
    import pyarrow.parquet as pq

    rows = pq.read_table(part).to_pylist()
    chosen = sample_rows([row.get("label", "") for row in rows], recipe.train.rows, recipe.train.seed)
    if not chosen:
        raise DataError(str(part), "no rows", "at least one training row", "look at split's report")
    drawn = [rows[index] for index in chosen]
    fitting = [(row, example) for row, example in zip(drawn, examples_of(recipe, tokens, drawn), strict=True) if example is not None]
    if not fitting:
        found = f"none of {len(chosen)} rows fits into {recipe.prompt.max_tokens} tokens"
        raise DataError(str(part), found, "room for answer and text", "raise prompt.max_tokens")
    origins: list[Origin] = [(row.get("file", "data"), row["row"]) for row, _ in fitting]
    return TrainingRows([example for _, example in fitting], origins, len(drawn) - len(fitting))


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


def sample_rows(labels: Sequence[str], count: int | None, seed: int) -> list[int]:
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
