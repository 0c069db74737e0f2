"""Rows with their labels, and how they become train, validation and test.

No library's random numbers decide where a stratified row goes, but the sha256 of seed and text: the same rows come out on any
machine, and when the file grows hardly a row changes sides, so that what was trained on does not become test.
"""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tasks.contracts import FileName, PartName
from tasks.data import comparison_key
from tasks.errors import DataError
from tasks.schema.data import Split

Stratum = tuple[str, ...]

Origin = tuple[FileName, int]
"""File and line of a row: what tells rows of two files apart."""


@dataclass(frozen=True)
class LabelledRow:
    """A row with its labels."""

    line: int
    text: str
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    """What the data set's further columns hold."""
    file: FileName = "data"

    @property
    def origin(self) -> Origin:
        """Where the row stands."""
        return self.file, self.line

    @cached_property
    def key(self) -> str:
        """What is equal for rows whose texts are the same."""
        return comparison_key.key(self.text)


Parts = dict[PartName, list[LabelledRow]]


def split_rows(
    rows: Sequence[LabelledRow],
    keys: Split,
    names: Sequence[str],
    *,
    published: Sequence[LabelledRow] | None = None,
    groups: Mapping[Origin, int] | None = None,
) -> Parts:
    """Part the rows; the order within a part is random and of mixed classes, so that any beginning of it is a fair draw.

    Args:
        rows: all rows of the data file that stay, or of both files where they are pooled.
        keys: the recipe's `split`.
        names: the recipe's labels, none where it has none.
        published: the rows of the published test file, which come into the test part (`published_rows` of them).
        groups: a row's origin to its group, whose rows stay in one part. A part may then be a few rows short of what was asked, as
            it may where a set of labels is rarer than the parts are many.

    Raises:
        DataError: one class only, or not every class has a row for every part.
    """
    _check_sizes(rows, keys, names)
    if keys.by == "shuffle":
        parts = _shuffled(rows, keys)
    else:
        parts = _stratified(rows, {"test": keys.test, "validation": keys.validation}, keys.seed, names, groups or {})
    if published is not None:
        parts["test"] += _drawn(published, keys, names)
        parts["test"].sort(key=lambda row: _order(keys.seed, row))
    elif keys.published == "pooled":
        parts["test"] = _drawn(parts["test"], keys, names)
    for part, members in parts.items():
        counts = count(members)
        for name in names if members else ():
            if not counts[name]:
                raise DataError(
                    "split", f"class {name} ({count(rows)[name]} rows) has none in {part}", "at least one",
                    "enlarge the part, or add rows",
                )  # fmt: skip
    return parts


def count(rows: Iterable[LabelledRow]) -> Counter[str]:
    """Label to the number of rows that have it."""
    return Counter(label for row in rows for label in row.labels)


def _check_sizes(rows: Sequence[LabelledRow], keys: Split, names: Sequence[str]) -> None:
    present = count(rows)
    if names and len(present) == 1:
        raise DataError("split", f"one class only, {next(iter(present))} ({len(rows)} rows)", f"{len(names)} classes", "look at the labels")
    if keys.test + keys.validation + max(len(names), 1) > len(rows):
        raise DataError(
            "split", f"{len(rows)} rows", f"{keys.test} for test, {keys.validation} for validation and one a class for train",
            "lower split.test or split.validation",
        )  # fmt: skip
    needed = 1 + (keys.test > 0) + (keys.validation > 0)
    for name in names:
        if present[name] < needed:
            raise DataError(
                "split",
                f"class {name} has {present[name]} rows",
                f"at least {needed}, one for each part",
                "add rows or drop the class",
            )


def _drawn(rows: Sequence[LabelledRow], keys: Split, names: Sequence[str]) -> list[LabelledRow]:
    """The test rows that `published_rows` asks for, each class by its share; all of them where it is empty."""
    asked = min(keys.published_rows or len(rows), len(rows))
    return _stratified(rows, {"test": asked}, keys.seed, names, {})["test"]


def _shuffled(rows: Sequence[LabelledRow], keys: Split) -> Parts:
    """In the order of pandas' `sample(frac=1, random_state=seed)`: train, then validation, test last."""
    from numpy.random import RandomState  # what pandas draws from; its stream is frozen for good

    order = [rows[position] for position in RandomState(keys.seed).permutation(len(rows))]
    train, rest = len(rows) - keys.test - keys.validation, len(rows) - keys.test
    return {"train": order[:train], "validation": order[train:rest], "test": order[rest:]}


def _stratified(
    rows: Sequence[LabelledRow], asked: Mapping[PartName, int], seed: int, names: Sequence[str], groups: Mapping[Origin, int]
) -> Parts:
    """Each group of rows goes to the first of the asked parts that has a seat for every one of them, otherwise to train.

    Rows with equal texts are a group.
    """
    order = sorted(rows, key=lambda row: _order(seed, row))
    stratum_of = strata(order, min((rows for rows in asked.values() if rows), default=0), names)
    sizes = Counter(stratum_of.values())
    sizes_in_order = {stratum: sizes[stratum] for stratum in sorted(sizes, key=lambda stratum: [names.index(name) for name in stratum])}
    seats = {part: shares(rows, sizes_in_order, part) for part, rows in asked.items()}
    together: dict[str | int, list[LabelledRow]] = defaultdict(list)
    for row in order:
        together[groups.get(row.origin, row.key)].append(row)
    part_of: dict[Origin, PartName] = {}
    for group in together.values():
        wanted = Counter(stratum_of[row.origin] for row in group)
        part = next((part for part, free in seats.items() if all(free[stratum] >= rows for stratum, rows in wanted.items())), None)
        if part:
            part_of |= {row.origin: part for row in group}
            seats[part] = {stratum: free - wanted[stratum] for stratum, free in seats[part].items()}
    parts: Parts = {"train": [], "validation": [], "test": []}
    for row in order:
        parts[part_of.get(row.origin, "train")].append(row)
    return parts


def strata(rows: Sequence[LabelledRow], least: int, names: Sequence[str]) -> dict[Origin, Stratum]:
    """Origin of each row to the labels whose share every part keeps.

    These are the row's own labels, or, where a part of `least` rows has no seat for so rare a set, the rarest of them alone: so
    rare sets stand together, and every label comes into every part where it can.
    """
    sets, labels = Counter(row.labels for row in rows), count(rows)

    def stratum(own: Stratum) -> Stratum:
        if len(own) < 2 or sets[own] * least >= len(rows):
            return own
        return (min(own, key=lambda name: (labels[name], names.index(name))),)

    of_set = {own: stratum(own) for own in sets}
    return {row.origin: of_set[row.labels] for row in rows}


def shares(rows: int, sizes: Mapping[Stratum, int], part: str) -> dict[Stratum, int]:
    """Seats of each class among `rows`, by largest remainder, at least one each; whole numbers only, so no rounding differs.

    Raises:
        DataError: there are fewer rows than classes.
    """
    if not rows:
        return dict.fromkeys(sizes, 0)
    if rows < len(sizes):
        raise DataError("split", f"split.{part} is {rows}", f"at least one row for each of {len(sizes)} classes", f"enlarge split.{part}")
    total, given = sum(sizes.values()), dict.fromkeys(sizes, 1)
    for _ in range(rows - len(sizes)):
        poorest = max(sizes, key=lambda name: rows * sizes[name] - given[name] * total)
        given[poorest] += 1
    return given


def downsampled(rows: Sequence[LabelledRow]) -> list[LabelledRow]:
    """As many rows of each class as the rarest has: the first in the part's random order."""
    rarest = min(count(rows).values())
    taken: Counter[Stratum] = Counter()
    kept = []
    for row in rows:
        taken[row.labels] += 1
        if taken[row.labels] <= rarest:
            kept.append(row)
    return kept


def upsampled(rows: Sequence[LabelledRow], seed: int) -> list[LabelledRow]:
    """As many rows of each class as the most frequent has: the others' rows once more, in the part's order, as often as it takes.

    The whole in a random order of its own, so that copies do not stand side by side.
    """
    most = max(count(rows).values())
    of_class: dict[Stratum, list[LabelledRow]] = defaultdict(list)
    for row in rows:
        of_class[row.labels].append(row)
    whole = [(members[index % len(members)], index // len(members)) for members in of_class.values() for index in range(most)]
    return [row for row, _ in sorted(whole, key=lambda each: _order(seed, *each))]


def _order(seed: int, row: LabelledRow, copy: int = 0) -> tuple[bytes, Origin]:
    """Decides where a row stands; a copy stands elsewhere, rows with equal texts side by side as they do in their files.

    It hashes the composed form, not the key: a change of what is compared must not draw every data set anew.
    """
    text = " ".join(unicodedata.normalize("NFC", row.text).split())
    return hashlib.sha256((f"{seed}\n{text}" + (f"\n{copy}" if copy else "")).encode()).digest(), row.origin
