"""From the steps of a sweep that come after `version`: its plan, its trials, their comparison."""

from dataclasses import dataclass
from typing import ClassVar

from tasks.contracts.evaluation import Scores
from tasks.contracts.training import Emissions, TrackedRun


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    name: str
    rows: int
    """Of the training part."""
    seed: int
    epochs: tuple[int, ...]
    """After how many epochs it is scored, rising; it ends with the last."""


@dataclass(frozen=True)
class Plan:
    """From `sweep_plan`: the trainings that the grid of a sweep asks for."""

    step: ClassVar[str] = "sweep_plan"
    trials: tuple[Trial, ...]
    tracked: TrackedRun
    """The sweep's MLflow run; the trials' runs are its children."""

    @property
    def parts(self) -> list[str]:
        """Names of the trials, each a part of the step `sweep_trial`."""
        return [trial.name for trial in self.trials]


@dataclass(frozen=True)
class Point:
    """One point of a sweep's grid: a training after some epochs, on the test part."""

    epochs: int
    scores: Scores
    tracked: TrackedRun


@dataclass(frozen=True)
class TrialScores:
    """From `sweep_trial`: how one training of a sweep scores after each of its numbers of epochs."""

    step: ClassVar[str] = "sweep_trial"
    trial: Trial
    tracked: TrackedRun
    points: tuple[Point, ...]
    test_rows: int
    steps: int
    seconds: float
    """Of the attempt that ended it."""
    emissions: Emissions
    rows_file: str | None = None
    """The rows that it trained on, as an adapter's."""


@dataclass(frozen=True)
class Comparison:
    """From `sweep_compare`: the grid of a sweep as table and pictures."""

    step: ClassVar[str] = "sweep_compare"
    table: str
    """Markdown: a line for each size, a column for each number of epochs."""
    points: str
    """CSV: a line for each point."""
    figures: dict[str, str]
    """Title to picture file."""
