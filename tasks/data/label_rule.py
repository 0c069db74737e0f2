"""Which labels a row has, by the recipe's rule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from tasks.data.read_file import number
from tasks.schema.labels import Indexes, Labels, MarkedColumns, Opening, Threshold

RULE = "rule:"
"""Before the name of a column that only the rule reads."""


@dataclass(frozen=True)
class Misfit:
    """A field that the rule cannot make anything of."""

    column: str
    value: str
    expected: str
    remedy: str


def labels_of(cells: Mapping[str, str], labels: Labels, column: str = "label") -> tuple[str, ...] | Misfit:
    """The labels of a row in the recipe's order; empty where the rule finds none, which is no fault.

    Args:
        cells: the row's fields by role: `label`, and `rule:COLUMN` for what else the rule reads. They count exactly as they stand,
            space and case included.
        labels: names and rule.
        column: what the label column is called in the file.
    """
    rule = labels.rule
    if isinstance(rule, MarkedColumns):
        found = _marked(cells, rule)
    elif isinstance(rule, Indexes):
        found = _indexed(cells["label"], rule, column)
    elif isinstance(rule, Opening):
        found = _opened(cells, rule)
    elif isinstance(rule, Threshold):
        found = _above_or_below(cells["label"], rule, column)
    else:
        found = _itself(cells["label"], labels, column)
    return found if isinstance(found, Misfit) else tuple(name for name in labels.names if name in found)


def _itself(field: str, labels: Labels, column: str) -> tuple[str, ...] | Misfit:
    if field in labels.names:
        return (field,)
    near = get_close_matches(field, labels.names, n=1)
    remedy = f"{_reject('be_in_set')}, or add the class to labels.names"
    return Misfit(column, field, f"one of {list(labels.names)}", f"did you mean {near[0]}? {remedy}" if near else remedy)


def _above_or_below(field: str, rule: Threshold, column: str) -> tuple[str, ...] | Misfit:
    value = number(field)
    if value is None:
        return Misfit(column, field, "a number", _reject("be_between"))
    return (rule.at_or_above if value >= rule.threshold else rule.below,)


def _marked(cells: Mapping[str, str], rule: MarkedColumns) -> tuple[str, ...] | Misfit:
    marked = []
    for label, column in rule.columns.items():
        value = number(field := cells[RULE + column])
        if value not in (0, 1):
            return Misfit(column, field, "1 or 0", _reject("be_in_set"))
        marked += [label] if value else []
    return tuple(marked) or (() if rule.none is None else (rule.none,))


def _indexed(field: str, rule: Indexes, column: str) -> tuple[str, ...] | Misfit:
    stated = [part.strip() for part in field.split(rule.separator)] if field.strip() else []
    if not all(part.isdecimal() for part in stated):
        return Misfit(column, field, f"whole numbers with {rule.separator!r} between them", _reject("match_regex"))
    return tuple(label for label, index in rule.indexes.items() if index in map(int, stated))


def _opened(cells: Mapping[str, str], rule: Opening) -> tuple[str, ...] | Misfit:
    text = cells["label"].strip()
    for label, words in rule.opening.items():
        if any(re.match(rf"{re.escape(word)}\b", text, re.IGNORECASE) for word in words):
            return (label,)
    if rule.otherwise is None:
        return ()
    other = cells[RULE + rule.otherwise.column]
    if other not in rule.otherwise.values:
        return Misfit(rule.otherwise.column, other, f"one of {list(rule.otherwise.values)}", _reject("be_in_set"))
    return (rule.otherwise.values[other],)


def _reject(expectation: str) -> str:
    return f"reject such rows with expect_column_values_to_{expectation} under validate.expectations"
