"""Names of metrics in MLflow, whatever the labels in them: each metric has one of its own, the same in every run of a recipe.

MLflow takes letters, digits and `_-./ :` in a name, at most 250 characters, and no path that resolves to another one. Databases may
ignore case, accents and white space at the end.

| label | metric | |
|---|---|---|
| `Women/Family` | `f1_Women/Family` | nothing to do |
| `LGBTQ+` | `f1_LGBTQ_` | what MLflow does not take of ASCII becomes `_` |
| `👎` | `f1_:thumbs down sign:` | other characters become their Unicode names |
| `C++`, `C#` | `f1_C:plus sign::plus sign:`, `f1_C:number sign:` | where two would differ by no more than `_`, all characters do |
| `Hate`, `hate` | `f1_:latin capital letter h:ate`, `f1_hate` | where two differ by case or accents, capitals and accented letters do too |
"""

import hashlib
import posixpath
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from tasks.metrics.characters import spelled_out

NAMEABLE = re.compile(r"[\w\-./ :]")
"""A character that MLflow takes in a metric's name."""

LONGEST = 225
"""MLflow's 250 characters less the model's name before and `.high` behind."""

PLAIN = frozenset(string.ascii_lowercase + string.digits + "_-")
"""Characters that every store keeps apart."""

BOUNDS = (".low", ".high")
"""Endings of the names of a metric's interval."""


def metric_names(metrics: Iterable[str]) -> dict[str, str]:
    """Name in MLflow of each metric that a recipe has; no two are equal, nor is one another's bound.

    Args:
        metrics: all that the recipe has, since a name depends on which others there are.
    """
    form = dict.fromkeys(metrics, 0)
    for _ in FORMS[1:]:
        names = {metric: FORMS[number](metric) for metric, number in form.items()}
        taken = Counter(_folded(name + ending) for name in names.values() for ending in ("", *BOUNDS))
        for metric, name in names.items():
            alone = all(taken[_folded(name + ending)] == 1 for ending in ("", *BOUNDS))
            if not alone or posixpath.normpath(f"model.{name}") != f"model.{name}":
                form[metric] += 1
    return {metric: _shortened(FORMS[number](metric), metric) for metric, number in form.items()}


def _cleaned(metric: str) -> str:
    cleaned = "".join("_" if letter.isascii() and not NAMEABLE.fullmatch(letter) else letter for letter in metric)
    return spelled_out(cleaned, lambda letter: bool(NAMEABLE.fullmatch(letter)))


FORMS: tuple[Callable[[str], str], ...] = (
    _cleaned,
    lambda metric: spelled_out(metric, lambda letter: letter not in "./ " and bool(NAMEABLE.fullmatch(letter))),
    lambda metric: spelled_out(metric, PLAIN.__contains__),
)
"""From the shortest to one that is no other metric's in any store. Two metrics' names are never equal unless both are of the first form."""


def _shortened(name: str, metric: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:150]}:{hashlib.sha256(metric.encode()).hexdigest()}:"


def _folded(name: str) -> str:
    """What the least particular reader or database compares."""
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return re.sub("_+", "_", bare.casefold().rstrip())
