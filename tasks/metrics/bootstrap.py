"""How far a metric may lie from its true value on so few rows: percentile bootstrap intervals."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.contracts import Score, Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 0
"""Every model is given the same draws of rows, so that their intervals differ by the models alone."""


def bootstrap(metrics: "Callable[[NDArray[np.intp]], dict[str, float]]", rows: int, *, resamples: int, confidence: float) -> Scores:
    """Every metric over all rows, with its percentile interval over rows drawn with replacement.

    A draw in which a metric is not defined (a class that no drawn row has) is left out of that metric's interval; where that
    is more than half of them, the interval is NaN.

    Args:
        metrics: function of row numbers, (n,) with repetitions, to metric name and value.
        rows: how many rows there are.
        resamples: how often `rows` rows are drawn.
        confidence: level of the interval, 0.95 for 95 %.

    Returns:
        Metric to score; low <= high, and nothing says that the value lies between them.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    import numpy as np

    whole = metrics(np.arange(rows))
    generator = np.random.default_rng(SEED)
    draws = [metrics(generator.integers(rows, size=rows)) for _ in range(resamples)]
    scores = {}
    for name, value in whole.items():
        drawn = np.array([draw[name] for draw in draws])
        defined = drawn[np.isfinite(drawn)]
        low = high = float("nan")
        if 2 * len(defined) >= resamples:
            low, high = map(float, np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2]))
        scores[name] = Score(float(value), low, high)
    return scores
