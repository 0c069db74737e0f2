"""The page that `validate` leaves: figures about the rows, never what they say."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.contracts import ValidRows
from tasks.data.checked_file import CheckedFile
from tasks.data.label_rule import RULE, Misfit, labels_of
from tasks.data.read_file import number
from tasks.errors import DataError
from tasks.schema.labels import Labels, Threshold
from tasks.workspace.run import Run

BINS = 30
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000, 100_000)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    name: str
    count: int


@dataclass(frozen=True)
class FilePage:
    """What the page shows of one data file."""

    file: CheckedFile
    lengths: list[Bar]
    quantiles: dict[str, int]
    labels: list[Bar]


def write(run: Run, rows: ValidRows, files: Sequence[CheckedFile], fault: DataError | None) -> None:
    """Write `report.html`: one file, readable offline, no script, none of the texts.

    Args:
        run: whose recipe and attempt count.
        rows: what was read, valid and rejected.
        files: the data file, and the published test file where there is one.
        fault: what stopped the run, if anything did.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("validation_report.html.j2").render(
        recipe=run.recipe, run_id=run.id, rows=rows, fault=fault, files=[_page(file, run.recipe.labels) for file in files],
        rejects=[Bar(reason, count) for reason, count in rows.rejected.items()],
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    (run.attempt / "report.html").write_text(page, encoding="utf-8")


def _page(file: CheckedFile, labels: Labels) -> FilePage:
    columns = file.columns(file.table.roles() | {RULE + column: column for column in labels.columns()})
    lengths = sorted(map(len, columns["text"]))
    return FilePage(file, length_bars(lengths), quantiles(lengths), label_bars(columns, labels) if labels.names else [])


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


def label_bars(columns: Mapping[str, Sequence[str]], labels: Labels) -> list[Bar]:
    """The recipe's labels with the rows that have them, or bins of a number; what gives no label is counted, not shown."""
    if isinstance(labels.rule, Threshold):
        values = [value for field in columns["label"] if (value := number(field)) is not None and math.isfinite(value)]
        strange = len(columns["label"]) - len(values)
        return _value_bars(values) + ([Bar("not a number", strange)] if strange else [])
    counts: Counter[str] = Counter()
    for fields in zip(*columns.values(), strict=True):
        found = labels_of(dict(zip(columns, fields, strict=True)), labels)
        counts.update(["another value"] if isinstance(found, Misfit) else found or ["no label"])
        counts["several labels"] += len(found) > 1 if not isinstance(found, Misfit) else 0
    return [
        Bar(name, counts[name])
        for name in (*labels.names, "several labels", "no label", "another value")
        if name in labels.names or counts[name]
    ]


def _value_bars(values: Sequence[float]) -> list[Bar]:
    if len(distinct := sorted(set(values))) <= 12:
        counts = Counter(values)
        return [Bar(f"{value:g}", counts[value]) for value in distinct]
    low, high = distinct[0], distinct[-1]
    edges = [low + (high - low) * index / 10 for index in range(11)]
    bins = Counter(min(bisect_right(edges, value) - 1, 9) for value in values)
    return [Bar(f"{edges[index]:.3g} to {edges[index + 1]:.3g}", bins[index]) for index in range(10)]
