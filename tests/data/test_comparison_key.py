"""Texts that a reader cannot tell apart are one text in splitting, and stay as they are in the parts."""

import unicodedata
from collections import Counter

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import comparison_key, near_duplicates
from tasks.data.partition import LabelledRow, split_rows
from tasks.schema.data import Split
from tasks.split import resolve_equal_texts

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u00ad\ufeff\ufe0e\ufe0f\u2060\u202a\u202e\u2066\u2069\u061c\u180e\u034f\u115f\u3164\x00\x7f"
ENGLAND, SCOTLAND = (f"\U0001f3f4{''.join(chr(0xE0000 + ord(letter)) for letter in region)}\U000e007f" for region in ("gbeng", "gbsct"))


@pytest.mark.parametrize("letter", INVISIBLE, ids=ascii)
def test_a_character_that_cannot_be_seen_does_not_count(letter: str) -> None:
    for text in (f"good{letter} day", f"{letter}good day", f"good day{letter}", f"go{letter}od day", f"good {letter} day"):
        assert comparison_key.key(text) == "good day"


def test_every_default_ignorable_character_is_left_out_anywhere_but_in_a_flag() -> None:
    every = [chr(code) for code in range(0x110000) if regex.match(r"\p{Default_Ignorable_Code_Point}", chr(code))]
    assert len(every) > 4000
    assert {comparison_key.key(f"a{letter}b") for letter in every} == {"ab"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u00e9", "e\u0301"), ("e\u200b\u0301", "\u00e9"), ("\uac01", "\u1100\u1161\u11a8"), ("\uff26\uff55\uff4c\uff4c", "Full"),
        ("\ufb01ne", "fine"), ("\u2460", "1"), ("a\u2026", "a..."), ("a\u00a0\u3000\u2009b", "a b"), ("a\u2028\x85\r\n\tb", "a b"),
        (" a ", "a"), ("\u2764\ufe0f", "\u2764"), ("\U0001f469\u200d\U0001f4bb", "\U0001f469\U0001f4bb"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
        ("क\u094d\u200dष", "क\u094dष"), ("\u212b", "\u00c5"),
    ],
)  # fmt: skip
def test_texts_that_are_the_same(one: str, other: str) -> None:
    assert comparison_key.key(one) == comparison_key.key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("US", "us"), ("Good?", "Good!"), ("e", "é"), ("a b", "ab"), ("👍🏽", "👍"), ("👍", "👎"), ("0", "O"),
        (ENGLAND, SCOTLAND), (ENGLAND, "\U0001f3f4"),
    ],
)  # fmt: skip
def test_texts_that_a_reader_tells_apart(one: str, other: str) -> None:
    assert comparison_key.key(one) != comparison_key.key(other)


@given(st.text())
def test_a_keys_key_is_itself(text: str) -> None:
    found = comparison_key.key(text)
    assert comparison_key.key(found) == found
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert comparison_key.key(unicodedata.normalize(form, text)) == found


def test_copies_are_found_and_the_texts_stay() -> None:
    """Thirty texts, each once more with something invisible in it: equal labels make a duplicate, others a contradiction."""
    texts = [f"text number {index}" for index in range(30)]
    twins = [text.replace("x", "x" + INVISIBLE[index % len(INVISIBLE)]) for index, text in enumerate(texts)]
    rows = [LabelledRow(index, text, ("a",)) for index, text in enumerate(texts)]
    rows += [LabelledRow(100 + index, text, ("a" if index < 10 else "b",)) for index, text in enumerate(twins)]
    dropped: Counter[str] = Counter()
    kept = resolve_equal_texts(rows, Split(seed=1, test=1), dropped)
    assert dropped == {"duplicate": 10, "contradiction": 40}
    assert [row.text for row in kept] == texts[:10]
    kept = resolve_equal_texts(list(reversed(rows)), Split(seed=1, test=1), Counter())
    assert sorted(row.text for row in kept) == sorted(twins[:10]), "the first of equal ones stays, as it is"


def test_answers_are_compared_as_texts_are() -> None:
    rows = [LabelledRow(index, "q", (), answers) for index, answers in enumerate([("yes", ""), ("y\u200bes", ""), ("no", "")])]
    dropped: Counter[str] = Counter()
    assert [row.line for row in resolve_equal_texts(rows, Split(seed=1, test=1), dropped)] == [0, 2]


@given(seed=st.integers(0, 200))
def test_no_text_straddles_two_parts_where_copies_are_kept(seed: int) -> None:
    texts = [text for index in range(40) for text in (f"text {index}", f"te\u200bxt\u00a0{index}")]
    rows = [LabelledRow(index, text, ("ab"[index // 2 % 2],)) for index, text in enumerate(texts)]
    parts = split_rows(rows, Split(seed=seed, test=10, validation=6, duplicates="keep"), ["a", "b"])
    assert sum(map(len, parts.values())) == len(rows)
    seen = [{row.key for row in part} for part in parts.values()]
    assert sum(map(len, seen)) == 40, "a text in two parts"


def test_near_copies_and_published_rows_are_found_through_invisible_characters() -> None:
    assert near_duplicates.groups([["a letter was sent today", "a let\u00adter was s\u200bent today", "x y z"]]) == [0, 0, 2]
    assert near_duplicates.groups([["\U0001f44d\U0001f44d", "\U0001f44d\ufe0f\U0001f44d", "\U0001f44e", ""]]) == [0, 0, 2, 3]
    assert comparison_key.letters("Don\u2019t  STOP\u200b!") == comparison_key.letters("dont stop")
    assert comparison_key.letters("\U0001f44d\ufe0f") == comparison_key.letters("\U0001f44d") != comparison_key.letters("\U0001f44e")
