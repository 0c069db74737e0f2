"""Kinds of task: how a row becomes prompt and answer, how a model's output becomes a prediction, which metrics count.

One module for each kind, all with the functions of `Kind`. A kind knows the recipe and the contracts, never a step.
Nothing heavy is imported before a function that needs it is called.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tasks.schema import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """A row as tokens."""

    prompt: list[int]
    """Token ids of the prompt, the beginning token first where the tokenizer has one."""
    answer: list[int]
    """Token ids of the answer, the end token last."""
    cut: bool
    """Whether the text was cut to fit."""


class Encoder(Protocol):
    """The part of a tokenizer that kinds need; `tasks.tokens.Tokens` makes one of a folder without torch."""

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning token, None where the tokenizer adds none to a text."""

    @property
    def eos_id(self) -> int:
        """Id of the end token."""

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""


LossFunction = Callable[..., "torch.Tensor"]
"""Of (outputs, labels, num_items_in_batch), as transformers' Trainer calls it; labels (B, K) are what logits[:, :K] predict."""


class Kind(Protocol):
    """What a module in this folder offers."""

    def check_tokens(self, recipe: Recipe, tokens: Encoder) -> None:
        """Raise RecipeError where the recipe does not fit the tokenizer."""

    def example(self, recipe: Recipe, tokens: Encoder, text: str, label: str) -> Example:
        """The row's prompt and answer as tokens."""

    def loss(self, recipe: Recipe, tokens: Encoder) -> LossFunction:
        """The training loss."""

    def predict(
        self, recipe: Recipe, model: Any, tokens: Encoder, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None
    ) -> "NDArray[np.float64]":
        """Scores of every text, (n_rows, n_labels)."""

    def labels_of(self, recipe: Recipe, scores: "NDArray[np.float64]") -> list[str]:
        """The predicted label of every row of scores."""

    def metrics(self, recipe: Recipe, truth: Sequence[str], scores: "NDArray[np.float64]") -> dict[str, float]:
        """Metric name to value, higher is better."""

    def figures(self, recipe: Recipe, truth: Sequence[str], scores: Mapping[str, "NDArray[np.float64]"], folder: Path) -> dict[str, str]:
        """Draw the kind's figures for each model's scores into a folder; title to file name."""


def kind_of(recipe: Recipe) -> Kind:
    """The module of the recipe's kind."""
    return cast(Kind, import_module(f"tasks.kinds.{recipe.kind}"))
