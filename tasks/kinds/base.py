"""Kinds of task: how a row becomes prompt and answer, how a model's output becomes a prediction, which metrics count.

One module for each kind, all with the functions of `Kind`. A kind knows the recipe and the contracts, never a step.
Nothing heavy is imported before a function that needs it is called.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from tasks.errors import DataError
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Row = Mapping[str, str]
"""A row of a part: `text`, and the columns of its answer (`label`; `answer`; named fields)."""

Columns = dict[str, "list[str] | NDArray[np.float64]"]
"""What a model made of rows, a column for each thing that it said: words as a list, numbers as an array, all (n_rows,)."""


@dataclass(frozen=True)
class Example:
    """A row as tokens."""

    prompt: list[int]
    """Token ids of the prompt, the beginning token first where the tokenizer has one."""
    answer: list[int]
    """Token ids of the answer, the end token last; a kind with a head on the model has the class's number instead."""
    cut: bool
    """Whether the text was cut to fit."""


@dataclass(frozen=True)
class Wording:
    """What the model card and the evaluation's report say of a kind, in sentences of its own."""

    task: Literal["text-classification", "text-generation"]
    """What the Hub calls the task."""
    purpose: str
    """What such a model is for: a paragraph."""
    limits: tuple[str, ...]
    """What it must not be used for, besides what holds for every model here: an item of a Markdown list each."""
    training: str
    """What a training row is, and which of its tokens carry loss: a sentence."""
    metrics: str
    """How to read the metrics: a sentence or two, or nothing."""
    agreement: str
    """What two models share on a row that they agree about: `same label`."""
    difference: str
    """What the largest difference between them is one of: `a score`."""
    text: str
    """What the card's snippets put to the model."""


class AnswerTooLong(DataError):
    """A row's answer leaves its text too little room in `prompt.max_tokens`."""


LossFunction = Callable[..., "torch.Tensor"]
"""Of (outputs, labels, num_items_in_batch), as transformers' Trainer calls it; labels (B, K) are what logits[:, :K] predict."""

Advance = Callable[[int], None]
"""Told how many rows each batch did."""

Metrics = Callable[["NDArray[np.intp]"], dict[str, float]]
"""Of row numbers, (n,) with repetitions, to metric name and value; a bootstrap calls it a thousand times."""


def no_progress(_: int) -> None:
    """Tell nobody how many rows are done."""


def in_proportion(advance: Advance, things: int, rows: int) -> Advance:
    """Of things done to rows done, where the rows take some number of things in all.

    Args:
        advance: told of rows.
        things: how many things all rows take.
        rows: how many rows there are.
    """
    done = 0

    def share(count: int) -> None:
        nonlocal done
        before, done = done * rows // things, done + count
        advance(done * rows // things - before)

    return share


class Samples(Protocol):
    """What a module in this folder offers besides where its models write freely; no part of parity."""

    def sampled(self, recipe: Recipe, rows: Sequence[Row]) -> list[int]:
        """Places of the test rows that a model answers, the same for all models."""

    def samples(self, recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
        """What a model writes after those rows, for metrics and the report; among the columns is `reply`, empty for the others."""


class Kind(Protocol):
    """What a module in this folder offers."""

    HEAD: Literal["causal", "classification"]
    """What the model ends in: the vocabulary, or a classification head over the recipe's labels."""

    def check_tokens(self, recipe: Recipe, tokens: Tokens) -> None:
        """Raise RecipeError where the recipe does not fit the tokenizer."""

    def example(self, recipe: Recipe, tokens: Tokens, row: Row) -> Example:
        """The row's prompt and answer as tokens; DataError where text or answer are empty, AnswerTooLong where they do not fit."""

    def loss(self, recipe: Recipe, tokens: Tokens) -> LossFunction:
        """The training loss."""

    def respond(self, recipe: Recipe, model: Any, tokens: Tokens, texts: Sequence[str], advance: Advance = no_progress) -> Columns:
        """What the registered model answers to texts: the columns of `response`."""

    def response(self, recipe: Recipe) -> dict[str, Literal["string", "double"]]:
        """Names and types of the columns of an answer."""

    def assess(self, recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
        """All that the metrics ask of a model about test rows: its answers, or how probable it finds the given ones."""

    def majority(self, recipe: Recipe, label: str, rows: Sequence[Row]) -> Columns | None:
        """What a model would make of the rows that always says one label; None for a kind without labels."""

    def metrics(self, recipe: Recipe, rows: Sequence[Row], columns: Columns) -> Metrics:
        """The kind's METRICS of some of the rows; higher is better."""

    def figures(self, recipe: Recipe, rows: Sequence[Row], columns: Mapping[str, Columns], folder: Path) -> dict[str, str]:
        """Draw the kind's figures for each model's columns into a folder; title to file name."""

    def snippet(self, recipe: Recipe) -> str:
        """Python for the model card that answers `wording().text` as `respond` does; `model`, `tokenizer` and torch are there already."""

    def wording(self, recipe: Recipe) -> Wording:
        """What the model card and the evaluation's report say of the kind."""


def kind_of(recipe: Recipe) -> Kind:
    """The module of the recipe's kind."""
    return cast(Kind, import_module(f"tasks.kinds.{recipe.kind}"))


def samples_of(recipe: Recipe) -> Samples | None:
    """The recipe's kind, where its models write freely."""
    kind = kind_of(recipe)
    return cast(Samples, kind) if hasattr(kind, "samples") else None


def longest_of(recipe: Recipe, tokens: Tokens) -> int:
    """Most tokens of a row that the model reads or writes: `prompt.max_tokens`, unless the recipe's kind says more."""
    kind = kind_of(recipe)
    return int(kind.longest(recipe, tokens)) if hasattr(kind, "longest") else recipe.prompt.max_tokens


def classes_of(recipe: Recipe) -> tuple[str, ...]:
    """The classes of the model's head; none where it ends in the vocabulary."""
    return recipe.labels.names if kind_of(recipe).HEAD == "classification" else ()


def examples_of(recipe: Recipe, tokens: Tokens, rows: Iterable[Row]) -> list[Example | None]:
    """The rows of a part as tokens; None for a row whose answer is too long, which whoever asks leaves out and counts.

    Raises:
        DataError: with the row's number, a row is no example.
    """
    example = kind_of(recipe).example

    def fitting(row: Row) -> Example | None:
        try:
            return example(recipe, tokens, row)
        except AnswerTooLong:
            return None
        except DataError as error:
            where, found = f"{error.where}: row {place_of(row)}", error.found.removeprefix("a row's ")
            raise DataError(where, found, error.expected, error.remedy) from None

    return [fitting(row) for row in rows]


def place_of(row: Row) -> str:
    """Number of a part's row, and where there are two files whether it counts the published test file's lines."""
    return f"{row['row']}{' of data.test' if row.get('file') == 'test' else ''}"


def labels_of(row: Row) -> list[str]:
    """The labels of a row, in the recipe's order; a part's column keeps several as one text."""
    return row["label"].split("|")


def words(columns: Columns) -> dict[str, list[str]]:
    """The columns that hold words."""
    return {name: column for name, column in columns.items() if isinstance(column, list)}


def numbers(columns: Columns) -> "dict[str, NDArray[np.float64]]":
    """The columns that hold numbers."""
    return {name: column for name, column in columns.items() if not isinstance(column, list)}
