"""Near copies: what counts as one, that none is missed, and that few are compared."""

import random
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import near_duplicates
from tasks.data.near_duplicates import SIMILAR, groups, near, word_pairs

WORDS = st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join)


def test_what_a_near_copy_is() -> None:
    letter = "A letter of complaint was sent yesterday"  # 6 word pairs
    changed = "a LETTER of complaint, is sent yesterday!"  # 4 of them, of 8 in all: 0.5
    other = "A letter of thanks is sent yesterday"  # 3 of them, of 9 in all
    assert list(near([letter, changed, other])) == [(0, 1), (1, 2)]
    assert groups([[letter, other, "", "", "one", "One."]]) == [0, 1, 2, 3, 4, 4]
    assert groups([[letter, changed, other]]) == [0, 0, 0], "also through others"
    assert groups([["x y", "p q", "k l", "m n"], ["1", "2", "2", "1"]]) == [0, 1, 1, 0], "in any column"


@given(texts=st.lists(WORDS, max_size=14))
def test_none_is_missed(texts: list[str]) -> None:
    sets = [word_pairs(text) for text in texts]
    similar = {
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if sets[one] and len(sets[one] & sets[other]) >= SIMILAR * len(sets[one] | sets[other])
    }
    found = set(near(texts))
    assert found <= similar
    first = {each: min(i for i, own in enumerate(sets) if own == each) for each in sets}
    assert {pair for pair in similar if sets[pair[0]] != sets[pair[1]] and all(first[sets[i]] == i for i in pair)} <= found
    group = groups([texts]) if texts else []
    assert all(group[one] == group[other] for one, other in similar)


def test_of_thousands_of_letters_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    class Counted(frozenset[Any]):
        def __and__(self, other: Any) -> Any:
            nonlocal compared
            compared += 1
            return super().__and__(other)

    monkeypatch.setattr(near_duplicates, "word_pairs", lambda text: Counted(word_pairs(text)))
    draw = random.Random(0)
    words = [f"word{index}" for index in range(5000)]
    letters = [" ".join(draw.choice(words[: 200 if row % 2 else 5000]) for _ in range(60)) for row in range(1500)]
    letters += [letters[0].replace(letters[0].split()[row % 60], "changed") for row in range(500)]
    assert len(set(groups([letters]))) == 1500
    assert 500 <= compared < 10_000, "of two million pairs"
