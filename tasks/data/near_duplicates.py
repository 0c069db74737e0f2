"""Near copies: texts that differ in a few words, found exactly and without comparing every two.

Two texts are near copies where their sets of word pairs (case, punctuation and spacing aside) have a Jaccard similarity of at
least `SIMILAR`: what both have, over what either has. Only texts that share one of their rarest word pairs are compared; none is
missed by that, since of a set's pairs in a fixed order the first `n - ceil(SIMILAR * n) + 1` must hit the other's (prefix
filtering: Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity search"). 1,641 reports take about half a second.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tasks.data.comparison_key import key, words

SIMILAR = 0.5
"""Least Jaccard similarity of near copies. One word changed in the middle of seven still reaches it."""

Pairs = frozenset[tuple[str, ...]]


def groups(columns: Sequence[Sequence[str]]) -> list[int]:
    """The group of each row: rows that are near copies in any column, directly or through others, share one.

    Args:
        columns: texts of the rows, (n_rows,) each; an empty text is a copy of none.

    Returns:
        (n_rows,) the first row of each row's group.
    """
    group = list(range(len(columns[0])))

    def first(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for texts in columns:
        for one, other in near(texts):
            low, high = sorted((first(one), first(other)))
            group[high] = low
    return [first(row) for row in range(len(group))]


def near(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose texts are near copies; of equal ones each is paired with the first only."""
    sets = [word_pairs(text) for text in texts]
    frequency = Counter(pair for pairs in sets for pair in pairs)
    seen: dict[Pairs, int] = {}
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, pairs in enumerate(sets):
        if not pairs:
            continue
        if (twin := seen.setdefault(pairs, position)) != position:
            yield twin, position
            continue
        rarest = sorted(pairs, key=lambda pair: (frequency[pair], pair))[: len(pairs) - math.ceil(SIMILAR * len(pairs)) + 1]
        for other in sorted({other for pair in rarest for other in holders[pair]}):
            both = len(pairs & sets[other])
            if both >= SIMILAR * (len(pairs) + len(sets[other]) - both):
                yield other, position
        for pair in rarest:
            holders[pair].append(position)


def word_pairs(text: str) -> Pairs:
    """Each two neighbouring words of a text; of a single word that word, and of a text without words (emoji, say) the text."""
    found = words(text) or list(filter(None, [key(text)]))
    return frozenset(itertools.pairwise(found)) if len(found) > 1 else frozenset([tuple(found)] if found else [])
