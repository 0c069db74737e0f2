"""From `evaluate`: scores, parity and the verdict."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Score:
    """One metric with its bootstrap interval."""

    value: float
    low: float
    high: float


Scores = dict[str, Score]


@dataclass(frozen=True)
class Parity:
    """Merged model against its adapter on a base, on sampled rows."""

    rows: int
    same_labels: int
    """Rows of which both say the same; for a kind without labels, rows whose answers both find as probable."""
    largest_difference: float
    """Largest absolute difference of a score, or of a mean log-probability, nats a token."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a challenger."""

    passed: bool
    reasons: tuple[str, ...]
    """A line for each check, held or broken, with its figures."""


@dataclass(frozen=True)
class Evaluation:
    """From `evaluate`: the evidence on the test part, and the gate's verdict."""

    step: ClassVar[str] = "evaluate"
    rows: int
    tuned: Scores
    base: Scores
    majority: Scores | None
    """None for a kind without labels."""
    champion: Scores | None
    champion_version: int | None
    parity: Parity
    """On the unquantised base, which the merged model is made of: the gate asks for all rows."""
    verdict: Verdict
    predictions: str
    """Parquet: row, with two data files file, and of truth and each model a column for each thing said."""
    figures: dict[str, str]
    """Title to picture file."""
    report: str
    """HTML page that reads offline."""
    left_out_rows: int = 0
    """Test rows not scored, since an answer leaves their text too little room in max_tokens."""
    quantized: Parity | None = None
    """On the quantised base, which the adapter was trained on: reported, and no more. None where the base is not quantised."""
