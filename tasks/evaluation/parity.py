"""How far the merged model lies from its adapter, on sampled test rows."""

import random
from collections.abc import Sequence

from tasks.contracts import Parity
from tasks.kinds.base import Columns, numbers, words

SEED = 0
"""Which test rows are sampled."""

TOLERANCE = 0.01
"""Where models answer in no words: how far their mean log-probabilities of a given answer, nats a token, may lie apart."""

QUANTIZED_TOLERANCE = 0.1
"""The same against the adapter on the quantised base: 4 and 8 bits say other numbers, and a tenth changes no reader's mind."""


def sample(rows: int, asked: int) -> list[int]:
    """Places of the sampled rows among all, rising; the same ones whatever they are compared for."""
    return sorted(random.Random(SEED).sample(range(rows), min(asked, rows)))  # noqa: S311 - a sample, no secret


def compare(merged: Columns, adapted: Columns, chosen: Sequence[int], tolerance: float) -> Parity:
    """Whether two models say the same.

    Args:
        merged: what the merged model made of all rows, (n_rows,) each.
        adapted: what the adapter on a base made of the sampled ones, (n_chosen,) each.
        chosen: (n_chosen,) places of the sampled rows.
        tolerance: where they answer in no words: largest difference of rows that count as the same.
    """
    import numpy as np

    differences = np.max([np.abs(column - numbers(merged)[name][chosen]) for name, column in numbers(adapted).items()], axis=0)
    if answers := words(adapted):
        same = sum(all(column[at] == words(merged)[name][row] for name, column in answers.items()) for at, row in enumerate(chosen))
    else:
        same = int((differences <= tolerance).sum())
    return Parity(rows=len(chosen), same_labels=same, largest_difference=float(differences.max()))
