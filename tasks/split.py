"""Cut validated rows into train, validation and test parts.

Reads   ValidRows     runs/<id>/validate.json
Uses    labels.*, split.*   of the recipe
Writes  DatasetParts  runs/<id>/split.json

No library's random numbers decide where a stratified row goes, but the sha256 of seed and text: the same rows come out on any
machine, and when the file grows hardly a row changes sides, so that what was trained on does not become test.
"""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tasks import contracts, parquet
from tasks.errors import DataError, Skip
from tasks.progress import Progress
from tasks.rows import number
from tasks.schema import Labels, Split
from tasks.workspace import Run


@dataclass(frozen=True)
class Row:
    """A row with its class."""

    line: int
    text: str
    label: str

    @property
    def same(self) -> str:
        """What makes two texts equal: Unicode's composed form, white space run together. Case and punctuation count."""
        return " ".join(unicodedata.normalize("NFC", self.text).split())


Parts = dict[contracts.PartName, list[Row]]


def split(run: Run) -> contracts.DatasetParts:
    """Give every row its class, resolve duplicates and contradictions, and part train, validation and test.

    Raises:
        DataError: a label field fits no class, there is one class only, or a class or the whole is too small for the parts.
        Skip: the run uses a data set version that is there.
    """
    if run.recipe.run.data != "new":
        raise Skip("split", f"data is {run.recipe.run.data}", "cut when that version was made")
    rows = _labelled(run)
    dropped: Counter[str] = Counter()
    rows = resolve_equal_texts(rows, run.recipe.split, dropped)
    parts = cut(rows, run.recipe.split, run.recipe.labels.names)
    if run.recipe.split.balance == "downsample":
        parts["train"] = _downsample(parts["train"], dropped)
    folder = run.attempt / "parts"
    written = {name: _write(run, name, part) for name, part in parts.items() if part}
    return contracts.DatasetParts(
        folder=run.relative(folder), parts=written, dropped={reason: count for reason, count in sorted(dropped.items()) if count}
    )


def _labelled(run: Run) -> list[Row]:
    """The valid rows with their classes, in the order of the file."""
    lines, columns = parquet.read(run.path(run.read(contracts.ValidRows).rows))
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    with Progress(run, "split", "labelling", len(lines), "rows") as progress:
        for line, text, value in zip(lines, columns["text"], columns["label"], strict=True):
            label = label_of(value, run.recipe.labels)
            if label is None:
                faults.append((line, value))
            else:
                rows.append(Row(line, text, label))
            progress.advance()
    if faults:
        raise _unlabelled(run, faults)
    return rows


def label_of(field: str, labels: Labels) -> str | None:
    """The class of a label field, None where it fits none; the field counts exactly as it stands, space and case included."""
    if labels.rule is None:
        return field if field in labels.names else None
    value = number(field)
    if value is None:
        return None
    return labels.rule.at_or_above if value >= labels.rule.threshold else labels.rule.below


def _unlabelled(run: Run, faults: Sequence[tuple[int, str]]) -> DataError:
    (line, value), labels = faults[0], run.recipe.labels
    others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    found = f"{run.recipe.data.label} is {value!r:.40}{others}"
    if labels.rule:
        remedy = "reject such rows with expect_column_values_to_be_between under validate.expectations"
        return DataError(f"split: line {line}", found, "a number expected", remedy)
    near = get_close_matches(value, labels.names, n=1)
    remedy = "reject such rows with expect_column_values_to_be_in_set under validate.expectations, or add the class to labels.names"
    return DataError(
        f"split: line {line}", found, f"one of {list(labels.names)} expected", f"did you mean {near[0]}? {remedy}" if near else remedy
    )


def resolve_equal_texts(rows: Sequence[Row], keys: Split, dropped: Counter[str]) -> list[Row]:
    """The rows that stay where texts are equal, in their order; the others are counted in `dropped`.

    A tie between the most frequent labels of a text is a contradiction that no majority resolves: its rows go.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.same].append(row)
    stays: set[int] = set()
    for group in groups.values():
        kept = _without_contradiction(group, keys.contradictions)
        dropped["contradiction"] += len(group) - len(kept)
        first = kept if keys.duplicates == "keep" else list({row.label: row for row in reversed(kept)}.values())
        dropped["duplicate"] += len(kept) - len(first)
        stays.update(row.line for row in first)
    return [row for row in rows if row.line in stays]


def _without_contradiction(group: list[Row], what: str) -> list[Row]:
    counts = Counter(row.label for row in group).most_common()
    if what == "keep" or len(counts) == 1:
        return group
    if what == "drop" or counts[0][1] == counts[1][1]:
        return []
    return [row for row in group if row.label == counts[0][0]]


def cut(rows: Sequence[Row], keys: Split, names: Sequence[str]) -> Parts:
    """Part the rows; the order within a part is random and of mixed classes, so that any beginning of it is a fair draw.

    Raises:
        DataError: one class only, or not every class has a row for every part.
    """
    present = Counter(row.label for row in rows)
    if len(present) == 1:
        raise DataError(
            "split", f"one class only, {next(iter(present))} ({len(rows)} rows)", f"{len(names)} classes expected", "look at the labels"
        )
    asked = keys.test + keys.validation
    if asked + len(names) > len(rows):
        raise DataError(
            "split", f"{len(rows)} rows", f"{keys.test} for test, {keys.validation} for validation and one a class for train expected",
            "lower split.test or split.validation",
        )  # fmt: skip
    needed = 3 if keys.validation else 2
    for name in names:
        if present[name] < needed:
            raise DataError(
                "split",
                f"class {name} has {present[name]} rows",
                f"at least {needed} expected, one for each part",
                "add rows or drop the class",
            )
    parts = _shuffled(rows, keys) if keys.by == "shuffle" else _stratified(rows, keys, names)
    for part, members in parts.items():
        counts = Counter(row.label for row in members)
        for name in names if members else ():
            if not counts[name]:
                raise DataError(
                    "split",
                    f"class {name} ({present[name]} rows) has none in {part}",
                    "at least one expected",
                    "enlarge the part, or add rows",
                )
    return parts


def _shuffled(rows: Sequence[Row], keys: Split) -> Parts:
    """In the order of pandas' `sample(frac=1, random_state=seed)`: train, then validation, test last."""
    from numpy.random import RandomState  # what pandas draws from; its stream is frozen for good

    order = [rows[position] for position in RandomState(keys.seed).permutation(len(rows))]
    train, rest = len(rows) - keys.test - keys.validation, len(rows) - keys.test
    return {"train": order[:train], "validation": order[train:rest], "test": order[rest:]}


def _stratified(rows: Sequence[Row], keys: Split, names: Sequence[str]) -> Parts:
    order = sorted(rows, key=lambda row: (hashlib.sha256(f"{keys.seed}\n{row.same}".encode()).digest(), row.line))
    of_class = {name: [row for row in order if row.label == name] for name in names}
    sizes = {name: len(members) for name, members in of_class.items()}
    parts: Parts = {"train": [], "validation": [], "test": []}
    tests, validations = shares(keys.test, sizes, "test"), shares(keys.validation, sizes, "validation")
    part_of: dict[int, contracts.PartName] = {}
    for name, members in of_class.items():
        until = tests[name] + validations[name]
        part_of |= {row.line: "test" for row in members[: tests[name]]}
        part_of |= {row.line: "validation" for row in members[tests[name] : until]}
    for row in order:
        parts[part_of.get(row.line, "train")].append(row)
    return parts


def shares(rows: int, sizes: dict[str, int], part: str) -> dict[str, int]:
    """Seats of each class among `rows`, by largest remainder, at least one each; whole numbers only, so no rounding differs.

    Raises:
        DataError: there are fewer rows than classes.
    """
    if not rows:
        return dict.fromkeys(sizes, 0)
    if rows < len(sizes):
        raise DataError(
            "split", f"split.{part} is {rows}", f"at least one row for each of {len(sizes)} classes expected", f"enlarge split.{part}"
        )
    total, given = sum(sizes.values()), dict.fromkeys(sizes, 1)
    for _ in range(rows - len(sizes)):
        poorest = max(sizes, key=lambda name: rows * sizes[name] - given[name] * total)
        given[poorest] += 1
    return given


def _downsample(rows: Iterable[Row], dropped: Counter[str]) -> list[Row]:
    """As many rows of each class as the rarest has: the first in the part's random order."""
    rows = list(rows)
    rarest = min(Counter(row.label for row in rows).values())
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row.label] += 1
        if taken[row.label] <= rarest:
            kept.append(row)
    dropped["balance"] += len(rows) - len(kept)
    return kept


def _write(run: Run, name: contracts.PartName, rows: Sequence[Row]) -> contracts.Part:
    path = run.attempt / "parts" / f"{name}.parquet"
    texts = {"text": [row.text for row in rows], "label": [row.label for row in rows]}
    parquet.write(path, ("row", [row.line for row in rows]), texts)
    counts = Counter(row.label for row in rows)
    return contracts.Part(run.relative(path), len(rows), {label: counts[label] for label in run.recipe.labels.names})
