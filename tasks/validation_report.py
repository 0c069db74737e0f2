"""The page that `validate` leaves: figures about the rows, never what they say."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.contracts import SourceFile, ValidRows
from tasks.errors import DataError
from tasks.expectations import Outcome
from tasks.rows import number
from tasks.schema import Labels
from tasks.workspace import Run

BINS = 30
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000, 100_000)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    name: str
    count: int


def write(
    run: Run, rows: ValidRows, source: SourceFile, outcomes: Sequence[Outcome], *,
    texts: Sequence[str], labels: Sequence[str], spanning: int, fault: DataError | None,
) -> None:  # fmt: skip
    """Write `report.html`: one file, readable offline, no script, none of the texts.

    Args:
        run: whose recipe and attempt count.
        rows: what was read, valid and rejected.
        source: the data file.
        outcomes: the expectations' results.
        texts: (n_valid,) texts of the valid rows.
        labels: (n_valid,) label fields of the valid rows, as in the file.
        spanning: rows of more than one line.
        fault: what stopped the run, if anything did.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    lengths = sorted(map(len, texts))
    page = environment.get_template("validation_report.html.j2").render(
        recipe=run.recipe, run_id=run.id, rows=rows, source=source, outcomes=outcomes, spanning=spanning, fault=fault,
        lengths=length_bars(lengths), quantiles=quantiles(lengths), labels=label_bars(labels, run.recipe.labels),
        rejects=[Bar(reason, count) for reason, count in rows.rejected.items()],
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    (run.attempt / "report.html").write_text(page, encoding="utf-8")


def length_bars(lengths: Sequence[int]) -> list[Bar]:
    """Histogram of sorted lengths in characters; the longest percent shares the last bar."""
    if not lengths:
        return []
    top = lengths[math.ceil(0.99 * len(lengths)) - 1]
    step = next((step for step in STEPS if top / step < BINS), STEPS[-1])
    edges = [step * index for index in range(min(top // step, BINS) + 2)]
    at = [bisect_right(lengths, edge - 1) for edge in edges]
    bars = [Bar(f"{low} to {low + step - 1}", end - start) for low, start, end in zip(edges, at, at[1:], strict=False)]
    return [*bars, Bar(f"{edges[-1]} and more", len(lengths) - at[-1])]


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Marks of sorted lengths in characters."""
    if not lengths:
        return {}
    marks = {"shortest": 0.0, "median": 0.5, "95 %": 0.95, "99 %": 0.99, "longest": 1.0}
    return {name: lengths[max(math.ceil(share * len(lengths)) - 1, 0)] for name, share in marks.items()}


def label_bars(labels: Sequence[str], rule: Labels) -> list[Bar]:
    """Labels as in the file: the recipe's names, or bins of a number; whatever else stands there is counted, not shown."""
    if rule.rule is None:
        counts = Counter(label if label in rule.names else "another value" for label in labels)
        return [Bar(name, counts[name]) for name in (*rule.names, "another value") if name in rule.names or counts[name]]
    values = [value for label in labels if (value := number(label)) is not None and math.isfinite(value)]
    bars = _value_bars(values)
    return bars + ([Bar("not a number", len(labels) - len(values))] if len(values) < len(labels) else [])


def _value_bars(values: Sequence[float]) -> list[Bar]:
    if len(distinct := sorted(set(values))) <= 12:
        counts = Counter(values)
        return [Bar(f"{value:g}", counts[value]) for value in distinct]
    low, high = distinct[0], distinct[-1]
    edges = [low + (high - low) * index / 10 for index in range(11)]
    bins = Counter(min(bisect_right(edges, value) - 1, 9) for value in values)
    return [Bar(f"{edges[index]:.3g} to {edges[index + 1]:.3g}", bins[index]) for index in range(10)]
