"""The step split: laws that hold for any rows, each error, and the published rows of the tutorial."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import DatasetParts, ValidRows
from tasks.data import parquet
from tasks.data.partition import LabelledRow, shares, split_rows
from tasks.errors import DataError, Skip
from tasks.schema import load
from tasks.schema.data import Split
from tasks.split import resolve_equal_texts
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

NAMES = ("negative", "neutral", "positive")
Start = Callable[..., Run]


@pytest.fixture
def start(make_run: Callable[..., Run]) -> Start:
    """A run that has validated these (text, label) rows."""

    def starting(rows: Sequence[tuple[str, str]], **overrides: Any) -> Run:
        run = make_run(tiny.recipe_document(Path("/nowhere"), Path("/nowhere.csv")), **overrides)
        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        parquet.write(run.folder / "rows.parquet", ("line", range(2, len(rows) + 2)), {"text": texts, "label": labels})
        run.write(ValidRows("rows.parquet", "rejects", "report.html", len(rows), len(rows), {}))
        return run

    return starting


def performed(run: Run) -> DatasetParts:
    parts = perform("split", run)
    assert isinstance(parts, DatasetParts)
    return parts


def rows_of(run: Run, parts: DatasetParts, name: str) -> list[LabelledRow]:
    lines, columns = parquet.read(run.path(parts.parts[name].path))  # type: ignore[index]
    assert list(columns) == ["text", "label"]
    return [made_row(*row) for row in zip(lines, columns["text"], columns["label"], strict=True)]


def made_row(line: int, text: str, label: str, *answers: str) -> LabelledRow:
    return LabelledRow(line, text, (label,), answers)


def digests(run: Run, parts: DatasetParts) -> list[str]:
    return [hashlib.md5(run.path(part.path).read_bytes(), usedforsecurity=False).hexdigest() for part in parts.parts.values()]


def keys(**values: Any) -> Split:
    return Split.model_validate({"seed": 1, "test": 6, "validation": 3, **values})


def made(labels: Sequence[str]) -> list[LabelledRow]:
    return [made_row(index + 2, f"text {index}", label) for index, label in enumerate(labels)]


def test_the_parts_of_a_run(start: Start) -> None:
    rows = [*tiny.tweets(120), *tiny.tweets(121)[:7], ("a b", "neutral"), ("a  b ", "positive")]
    run = start(rows, split__test=30, split__validation=15)
    parts = performed(run)
    assert parts.dropped == {"contradiction": 2, "duplicate": 7}
    assert {name: (part.rows, part.labels) for name, part in parts.parts.items()} == {
        "train": (75, dict.fromkeys(NAMES, 25)),
        "validation": (15, dict.fromkeys(NAMES, 5)),
        "test": (30, dict.fromkeys(NAMES, 10)),
    }
    for name in parts.parts:
        for row in rows_of(run, parts, name):
            assert (row.text, row.labels[0]) == rows[row.line - 2]


def test_a_part_without_rows_is_left_out(start: Start) -> None:
    run = start(tiny.tweets(90), split__validation=0)
    parts = performed(run)
    assert set(parts.parts) == {"train", "test"}
    assert sorted(path.name for path in run.path(parts.folder).iterdir()) == ["test.parquet", "train.parquet"]


def test_the_same_seed_gives_the_same_bytes(start: Start) -> None:
    rows = tiny.tweets(150)
    for by in ("stratified", "shuffle"):
        first, again, other = (
            start(rows, run_id=f"{by}-{name}", split__by=by, split__seed=seed) for name, seed in (("first", 5), ("again", 5), ("other", 6))
        )
        assert digests(first, performed(first)) == digests(again, performed(again))
        assert not set(digests(first, performed(first))) & set(digests(other, performed(other)))


def test_the_bytes_are_the_same_everywhere(start: Start) -> None:
    # Of a file, the writer's version is the one thing that may differ (requirements.lock pins it); so the rows are hashed here.
    run = start(tiny.tweets(150))
    parts = performed(run)
    said = "\n".join(f"{name}\t{row.line}\t{row.text}\t{row.labels[0]}" for name in parts.parts for row in rows_of(run, parts, name))
    assert hashlib.sha256(said.encode()).hexdigest() == "56888f6f7197e9d8b89f1cca8b0cdb903f0f9aaa7df2e10773eb22ad149d3443"


def test_the_file_holds_nothing_of_this_machine(start: Start) -> None:
    import pyarrow.parquet as pq

    run = start(tiny.tweets(150))
    file = pq.ParquetFile(run.path(performed(run).parts["train"].path))
    assert file.metadata.metadata is None
    assert file.metadata.row_group(0).column(1).compression == "UNCOMPRESSED"
    assert [(column.name, column.physical_type) for column in file.schema] == [
        ("row", "INT64"), ("text", "BYTE_ARRAY"), ("label", "BYTE_ARRAY"),
    ]  # fmt: skip


@given(
    labels=st.lists(st.sampled_from(NAMES), max_size=60).map(lambda more: [*NAMES * 4, *more]),
    by=st.sampled_from(["stratified", "shuffle"]),
    seed=st.integers(0, 2**32 - 1),
    validation=st.sampled_from([0, 3]),
)
def test_parts_are_disjoint_and_complete(labels: list[str], by: str, seed: int, validation: int) -> None:
    rows = made(labels)
    try:
        parts = split_rows(rows, keys(by=by, seed=seed, validation=validation), NAMES)
    except DataError as error:
        assert by == "shuffle"  # a draw may leave a part without a class, the shares do not
        assert "has none in" in str(error)
        return
    assert (len(parts["test"]), len(parts["validation"])) == (6, validation)
    assert sorted((row for part in parts.values() for row in part), key=lambda row: row.line) == rows
    for members in parts.values():
        assert {row.labels[0] for row in members} in ({*NAMES}, set())
    assert split_rows(rows, keys(by=by, seed=seed, validation=validation), NAMES) == parts


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", " b", "c", "é", "e\u0301"]), st.sampled_from("xy")), max_size=25),
    duplicates=st.sampled_from(["drop", "keep"]),
    contradictions=st.sampled_from(["drop", "majority", "keep"]),
)
def test_equal_texts(rows: list[tuple[str, str]], duplicates: str, contradictions: str) -> None:
    given_rows = [made_row(index, text, label) for index, (text, label) in enumerate(rows)]
    dropped: Counter[str] = Counter()
    kept = resolve_equal_texts(given_rows, keys(duplicates=duplicates, contradictions=contradictions), dropped)
    assert len(kept) + dropped.total() == len(rows)
    assert kept == [row for row in given_rows if row in kept]
    labels = {same: {row.labels[0] for row in kept if row.key == same} for same in {row.key for row in kept}}
    if contradictions != "keep":
        assert all(len(found) == 1 for found in labels.values())
    if duplicates == "drop":
        assert len(kept) == sum(map(len, labels.values()))
    if (duplicates, contradictions) == ("keep", "keep"):
        assert kept == given_rows


def test_the_first_of_equal_texts_stays() -> None:
    rows = [made_row(line, text, "x") for line, text in enumerate(["a\u00a0 b", "a b", "a\r\nb", "A b", "\u00e9", "e\u0301", "a b!"])]
    dropped: Counter[str] = Counter()
    kept = resolve_equal_texts(rows, keys(), dropped)
    assert ([row.line for row in kept], dropped) == ([0, 3, 4, 6], {"duplicate": 3, "contradiction": 0})


def test_contradictions_by_majority() -> None:
    rows = [made_row(line, text, label) for line, (text, label) in enumerate([("a", "y"), ("a", "x"), ("a", "x"), ("b", "x"), ("b", "y")])]
    dropped: Counter[str] = Counter()
    kept = resolve_equal_texts(rows, keys(contradictions="majority", duplicates="keep"), dropped)
    assert ([row.line for row in kept], dropped["contradiction"]) == ([1, 2], 3)  # the tie of b resolves nothing


@given(rows=st.integers(3, 200), sizes=st.lists(st.integers(1, 500), min_size=3, max_size=3))
def test_shares_keep_to_the_whole(rows: int, sizes: list[int]) -> None:
    seats = shares(rows, dict(zip([("a",), ("b",), ("c",)], sizes, strict=True)), "test")
    assert sum(seats.values()) == rows
    assert min(seats.values()) >= 1
    exact = [rows * size / sum(sizes) for size in sizes]
    if min(exact) >= 1:
        assert all(abs(seat - share) < 1 for seat, share in zip(seats.values(), exact, strict=True))


def test_shares_by_hand() -> None:
    a, b, c = ("a",), ("b",), ("c",)
    assert shares(10, {a: 60, b: 25, c: 15}, "test") == {a: 6, b: 3, c: 1}  # 6, 2.5, 1.5: the last seat to the first
    assert shares(4, {a: 98, b: 1, c: 1}, "test") == {a: 2, b: 1, c: 1}


def test_balance_draws_down_to_the_rarest(start: Start) -> None:
    rows = [(f"text {index}", NAMES[min(index % 10, 2)]) for index in range(300)]  # 30, 30, 240
    even, plain = start(rows), start(rows, run_id="plain", split__balance="none")
    parts, natural = performed(even), performed(plain)
    assert parts.parts["train"].labels == dict.fromkeys(NAMES, 21)  # 30 less 6 of test less 3 of validation
    assert parts.dropped == {"balance": natural.parts["train"].rows - 63}
    assert natural.parts["train"].labels == {"negative": 21, "neutral": 21, "positive": 168}
    assert [parts.parts[name] for name in ("validation", "test")] == [natural.parts[name] for name in ("validation", "test")]
    all_rows = rows_of(plain, natural, "train")
    assert [row for row in all_rows if row in set(rows_of(even, parts, "train"))] == rows_of(even, parts, "train")


def test_any_beginning_of_the_training_part_is_mixed(start: Start) -> None:
    rows = sorted(tiny.tweets(300), key=lambda row: row[1])
    run = start(rows, split__seed=9)
    begin = Counter(row.labels[0] for row in rows_of(run, performed(run), "train")[:30])
    assert all(begin[name] >= 4 for name in NAMES)


def test_few_rows_change_sides_when_the_file_grows() -> None:
    rows = made([NAMES[index % 3] for index in range(900)])
    before, after = (split_rows(some, keys(test=90, validation=45), NAMES) for some in (rows[:600], rows))
    trained = {row.line for row in before["train"]}
    assert not [row for row in after["test"] if row.line in trained]


def test_shuffle_is_the_order_of_pandas() -> None:
    import pandas as pd

    rows = made([NAMES[index % 3] for index in range(200)])
    parts = split_rows(rows, keys(by="shuffle", seed=32, test=40, validation=20), NAMES)
    frame = pd.DataFrame({"line": [row.line for row in rows]}).sample(frac=1, random_state=32)
    assert [row.line for name in ("train", "validation", "test") for row in parts[name]] == frame["line"].tolist()  # type: ignore[index]


def of(**counts: int) -> list[tuple[str, str]]:
    return [(f"{label} {index}", label) for label, count in counts.items() for index in range(count)]


RULE = {"names": ["no", "yes"], "positive": "yes", "rule": {"by": "threshold", "threshold": 0.5, "at_or_above": "yes", "below": "no"}}


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (of(neutral=200), {}, "split: one class only, neutral (200 rows) (expected: 3 classes). Fix: look at the labels"),
        (
            of(negative=100, neutral=100, positive=2), {},
            "split: class positive has 2 rows (expected: at least 3, one for each part). Fix: add rows or drop the class",
        ),
        (of(negative=100, neutral=100), {}, "split: class positive has 0 rows (expected: at least 3, one for each part)"),
        (
            of(negative=30, neutral=30, positive=32), {},
            "split: 92 rows (expected: 60 for test, 30 for validation and one a class for train). Fix: lower split.test "
                "or split.validation",
        ),
        (of(negative=5, neutral=5, positive=5), {"split__test": 2, "split__validation": 0},
            "split: split.test is 2 (expected: at least one row for each of 3 classes). Fix: enlarge split.test"),
        (
            of(negative=300, neutral=300, positive=3), {"split__by": "shuffle", "split__test": 10, "split__validation": 5},
            "split: class positive (3 rows) has none in ",
        ),
        (
            [("a", "neutrl"), ("b", "what")], {},
            "split: line 2: sentiment is 'neutrl' (and 1 more) (expected: one of ['negative', 'neutral', 'positive']). Fix: "
            "did you mean neutral? reject such rows with expect_column_values_to_be_in_set under "
            "validate.expectations, or add the class to labels.names",
        ),
        (
            [("a", "0.1"), ("b", "high")], {"labels": RULE},
            "split: line 3: sentiment is 'high' (expected: a number). Fix: "
            "reject such rows with expect_column_values_to_be_between under validate.expectations",
        ),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_cut(start: Start, rows: list[tuple[str, str]], overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        perform("split", start(rows, **overrides))
    assert str(error.value).startswith(message)


def test_only_new_data_is_cut(start: Start) -> None:
    with pytest.raises(Skip, match=r"split: data is latest, and that version is already split"):
        perform("split", start(tiny.tweets(90), run__data="latest"))


def test_ethos_is_cut_as_the_tutorial_cuts_it(mirror: Path, home: Path) -> None:
    from tasks.contracts import BaseModelFiles, Download, SourceFile
    from tasks.workspace.files import link_or_copy

    run = Run(home / "runs" / "ethos" / "test")
    run.folder.mkdir(parents=True)
    run.freeze(load.resolve(load.load(load.RECIPES / "ethos.yaml")))
    link_or_copy(mirror / run.recipe.data.source.mirror, run.folder / "ethos.csv")  # type: ignore[operator]
    size = (run.folder / "ethos.csv").stat().st_size
    run.write(Download(BaseModelFiles("none", "0", "base"), SourceFile("mirror", "ethos.csv", run.recipe.data.source.sha256 or "", size)))
    rows = perform("validate", run)
    assert isinstance(rows, ValidRows)
    assert (rows.read, rows.valid, rows.rejected) == (998, 998, {})
    parts = performed(run)
    assert parts.dropped == {}
    assert parts.parts["train"].labels == {"Positive": 398, "Negative": 402}
    assert parts.parts["test"].labels == {"Positive": 85, "Negative": 113}
