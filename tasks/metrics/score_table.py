"""The table of scores that the reviewer, the model card, the report and the end of a run show: metrics down, models across."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.contracts import Evaluation, Score, Scores
from tasks.metrics import markdown


@dataclass(frozen=True)
class Cell:
    """A score as text."""

    value: str
    interval: str
    """Empty where there is no score."""

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


@dataclass(frozen=True)
class ScoreTable:
    """Models scored on the same test rows."""

    models: dict[str, Scores]
    """Heading of each column to its scores; the first model is the one that was trained, and its metrics are the rows."""

    @property
    def head(self) -> list[str]:
        """Headings, that of the metrics first."""
        return ["metric", *self.models]

    @property
    def rows(self) -> Iterator[tuple[str, list[Cell]]]:
        """Each metric with a cell for each model."""
        for metric in next(iter(self.models.values())):
            yield metric, [_cell(scores.get(metric)) for scores in self.models.values()]

    def markdown(self) -> str:
        """The table in Markdown."""
        return markdown.table(self.head, ([metric, *cells] for metric, cells in self.rows))


def score_table(evaluation: Evaluation, tuned: str = "tuned", champion: str = "champion") -> ScoreTable:
    """The table of an evaluation.

    Args:
        evaluation: the scores.
        tuned: heading of the model that was trained.
        champion: what the page calls the champion that it was compared with.
    """
    models = {tuned: evaluation.tuned, "base model": evaluation.base}
    if evaluation.majority is not None:
        models["majority class"] = evaluation.majority
    if evaluation.champion is not None:
        models[f"{champion} (version {evaluation.champion_version})"] = evaluation.champion
    return ScoreTable(models)


def _cell(score: Score | None) -> Cell:
    if score is None or not math.isfinite(score.value):
        return Cell("-", "")
    return Cell(f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}")
