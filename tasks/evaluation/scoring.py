"""The test part, and a model scored on it: what it says of the rows, and the kind's metrics of that."""

from pathlib import Path
from typing import Any

from tasks.contracts import Scores
from tasks.errors import ContractError, DataError
from tasks.kinds.base import Advance, Columns, Row, examples_of, kind_of, labels_of, no_progress, numbers, place_of, samples_of
from tasks.metrics.bootstrap import bootstrap
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

Rows = list[Row]
"""The test part: of every row its columns, `row` (its line in the source file) among them, and with two files `file`."""


def read_rows(recipe: Recipe, path: Path) -> Rows:
    """The rows of a test part.

    Raises:
        DataError: a row's text is empty or its label unknown, or a class has no row.
    """
    import pyarrow.parquet as pq

    rows: Rows = [{name: str(cell) for name, cell in row.items()} for row in pq.read_table(path).to_pylist()]
    names = recipe.labels.names
    for row in rows:
        where = f"{path}: row {place_of(row)}"
        if not row["text"].strip():
            raise DataError(where, "the text is empty", "a text", "add an expectation that rejects such rows")
        for label in labels_of(row) if names else ():
            if label not in names:
                raise DataError(where, f"label {label!r:.60}", f"one of {list(names)}", "split again")
    present = {label for row in rows for label in labels_of(row)} if names else set()
    if missing := [name for name in names if name not in present]:
        raise DataError(str(path), f"{len(rows)} rows, none of them {missing[0]!r}", "every class", "raise split.test")
    return rows


def fitting(recipe: Recipe, tokens: Tokens, rows: Rows) -> tuple[Rows, int, int]:
    """The rows that fit max_tokens, of how many of them the text was cut, and how many do not fit.

    Raises:
        DataError: none fits.
    """
    made = examples_of(recipe, tokens, rows)
    kept = [row for row, example in zip(rows, made, strict=True) if example is not None]
    if not kept:
        found = f"none of {len(rows)} test rows fits into {recipe.prompt.max_tokens} tokens"
        raise DataError("evaluate", found, "room for answer and text", "raise prompt.max_tokens")
    return kept, sum(example.cut for example in made if example is not None), len(rows) - len(kept)


def predict(recipe: Recipe, model: Any, tokens: Tokens, rows: Rows, what: str, advance: Advance = no_progress) -> Columns:
    """What a model makes of the rows.

    Args:
        recipe: of which kind it is, and how it is asked.
        model: on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        rows: (n_rows,) the test part, or some of it.
        what: whose scores they are, for messages.
        advance: told how many rows each batch did.

    Raises:
        ContractError: what it says is not finite.
    """
    import numpy as np

    columns = kind_of(recipe).assess(recipe, model, tokens, rows, advance)
    broken = np.flatnonzero(~np.all([np.isfinite(column) for column in numbers(columns).values()], axis=0))
    if len(broken):
        found = f"scores of {len(broken)} of {len(rows)} rows are not finite, row {place_of(rows[broken[0]])} first"
        raise ContractError(what, found, "numbers", "lower train.learning_rate, or set base_model.dtype: float32")
    return columns


def sample_count(recipe: Recipe, rows: Rows) -> int:
    """How many of the rows `generate_samples` has a model answer freely."""
    kind = samples_of(recipe)
    return len(kind.sampled(recipe, rows)) if kind else 0


def generate_samples(recipe: Recipe, model: Any, tokens: Tokens, rows: Rows, advance: Advance = no_progress) -> Columns:
    """What a model writes freely after rows of the test part, beside `predict`; nothing where its kind does not."""
    kind = samples_of(recipe)
    return kind.samples(recipe, model, tokens, rows, advance) if kind else {}


def measure(recipe: Recipe, rows: Rows, columns: Columns) -> Scores:
    """The kind's metrics with their bootstrap intervals."""
    metrics = kind_of(recipe).metrics(recipe, rows, columns)
    return bootstrap(metrics, len(rows), resamples=recipe.evaluate.resamples, confidence=recipe.evaluate.confidence)
