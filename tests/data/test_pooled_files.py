"""`split.published: pooled`: the published test file's rows are rows as the others, and every row stays tellable."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import BaseModelFiles, DatasetParts, Download, SourceFile, ValidRows
from tasks.data import parquet
from tasks.errors import DataError, RecipeErrors
from tasks.schema import load
from tasks.schema.recipe import Recipe
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

NAMES = ("negative", "neutral", "positive")
PUBLISHED = {"source": {"file": "/test.csv"}}
Rows = list[tuple[str, str]]
Found = dict[tuple[str, int], tuple[str, str, str]]
Start = Callable[..., tuple[Run, DatasetParts]]


@pytest.fixture
def done(make_run: Callable[..., Run]) -> Start:
    """A run that has validated and split two files of (text, label) rows, pooled."""

    def starting(rows: Rows, published: Rows, **keys: Any) -> tuple[Run, DatasetParts]:
        keys = {"data__test": PUBLISHED, "split__published": "pooled", "split__balance": "none", **keys}
        run = make_run(tiny.recipe_document(Path("/nowhere"), Path("/nowhere.csv")), **keys)
        for name, own in (("rows", rows), ("test_rows", published)):
            columns = {"text": [text for text, _ in own], "label": [label for _, label in own]}
            parquet.write(run.folder / f"{name}.parquet", ("line", range(2, len(own) + 2)), columns)
        run.write(ValidRows("rows.parquet", "rejects", "report.html", 1, 1, {}, "test_rows.parquet"))
        parts = perform("split", run)
        assert isinstance(parts, DatasetParts)
        return run, parts

    return starting


def found(run: Run, parts: DatasetParts) -> Found:
    """File and row of every row of the parts to its part, text and label."""
    rows: Found = {}
    for name, part in parts.parts.items():
        lines, columns = parquet.read(run.path(part.path))
        assert list(columns) == ["file", "text", "label"]
        own = zip(columns["file"], lines, columns["text"], columns["label"], strict=True)
        rows |= {(file, line): (name, text, label) for file, line, text, label in own}
    assert len(rows) == sum(part.rows for part in parts.parts.values()), "no two rows are told by the same file and number"
    return rows


@pytest.mark.parametrize("by", ["stratified", "shuffle"])
def test_both_files_are_in_every_part_and_each_row_is_told_by_file_and_number(done: Start, by: str) -> None:
    rows, published = tiny.tweets(120), tiny.tweets(180)[120:]
    run, parts = done(rows, published, split__by=by, split__test=36, split__validation=20)
    assert {name: part.rows for name, part in parts.parts.items()} == {"train": 124, "validation": 20, "test": 36}
    assert parts.dropped == {}
    for (file, line), (_, text, label) in found(run, parts).items():
        assert (text, label) == {"data": rows, "test": published}[file][line - 2]
    shares = Counter((name, file) for (file, _), (name, _, _) in found(run, parts).items())
    assert all(shares[name, file] for name in ("train", "validation", "test") for file in ("data", "test"))


def test_equal_texts_of_both_files_are_resolved_as_within_one(done: Start) -> None:
    rows, published = tiny.tweets(120), tiny.tweets(180)[120:]
    published[0] = rows[5]  # the same row in both
    text, label = rows[6]
    published[1] = (text, NAMES[NAMES.index(label) - 1])  # another label
    run, parts = done(rows, published, split__test=36)
    assert parts.dropped == {"contradiction": 2, "duplicate": 1}
    kept = found(run, parts)
    assert ("data", 7) in kept and not {("test", 2), ("data", 8), ("test", 3)} & set(kept)
    _, parts = done(rows, published, run_id="kept", split__test=36, split__contradictions="keep", split__duplicates="keep")
    assert parts.dropped == {} and sum(part.rows for part in parts.parts.values()) == 180


def test_near_copies_of_both_files_stay_together(done: Start) -> None:
    def letters(first: int) -> Rows:
        return [(f"a letter of complaint number {index} was sent to the paper", NAMES[index % 3]) for index in range(first, first + 6)]

    rows, published = letters(0) + tiny.tweets(120), letters(6) + tiny.tweets(180)[120:]
    run, parts = done(rows, published, split__test=60, split__groups="near_copies")
    assert "leak" not in parts.dropped
    own = {name for name, text, _ in found(run, parts).values() if "letter" in text}
    assert len(own) == 1, "twelve near copies, six of each file"


def test_published_rows_are_drawn_of_the_test_part_by_shares(done: Start) -> None:
    rows, published = tiny.tweets(120), tiny.tweets(180)[120:]
    keys = {"split__test": 36, "split__validation": 20, "split__by": "shuffle"}
    run, parts = done(rows, published, **keys)
    other_run, drawn = done(rows, published, run_id="drawn", split__published_rows=12, **keys)
    assert (drawn.parts["test"].rows, drawn.dropped) == (12, {"not drawn": 24})
    whole, fewer = found(run, parts), found(other_run, drawn)
    assert {origin: row for origin, row in whole.items() if origin in fewer} == fewer, "no row changes its part"
    assert Counter(row[0] for row in fewer.values()) == {"train": 124, "validation": 20, "test": 12}
    assert all(abs(drawn.parts["test"].labels[name] - parts.parts["test"].labels[name] / 3) < 1 for name in NAMES)


def test_test_rows_of_two_files_are_told_apart_where_they_are_not_pooled(done: Start) -> None:
    run, parts = done(tiny.tweets(120), tiny.tweets(60, seed=5), split__published="test", split__test=30)
    files = Counter(file for (file, _), (name, _, _) in found(run, parts).items() if name == "test")
    assert files == {"data": 30, "test": 60}


def test_a_fault_in_a_pooled_file_names_it(done: Start) -> None:
    with pytest.raises(DataError, match=r"split: line 2 of data.test: sentiment is 'what' .expected: one of"):
        done(tiny.tweets(120), [("a", "what")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": None}, "split.published is pooled without data.test (expected: a published test file). Fix: remove it"),
        ({"test": PUBLISHED, "rows": 0}, "split.test is 0 with both files pooled (expected: test rows). Fix: enlarge it"),
    ],
)
def test_pooling_needs_two_files_and_a_test_part(tiny_document: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    tiny_document["data"]["test"] = changes["test"]
    tiny_document["split"] |= {"published": "pooled", "test": changes.get("rows", 60)}
    with pytest.raises(RecipeErrors) as caught:
        load.resolve(tiny_document)
    assert message in str(caught.value)


def unsmile(profile: str) -> Recipe:
    return load.resolve(load.load(load.RECIPES / "unsmile.yaml"), profile, {"as_published": True})


@pytest.mark.parametrize(("profile", "test", "validation"), [("full", 3749, 1000), ("local", 300, 200)])
def test_unsmile_as_published_draws_a_fifth_of_both_files(mirror: Path, home: Path, profile: str, test: int, validation: int) -> None:
    run = Run(home / "runs" / "unsmile" / profile)
    run.folder.mkdir(parents=True)
    run.freeze(unsmile(profile))
    files = []
    for folder, table in zip(("source", "test_source"), run.recipe.data.tables(), strict=True):
        path = run.folder / folder / Path(str(table.source.mirror)).name
        path.parent.mkdir()
        link_or_copy(mirror / str(table.source.mirror), path)
        files.append(SourceFile("mirror", run.relative(path), str(table.source.sha256), path.stat().st_size))
    run.write(Download(BaseModelFiles("b", "0", "b"), *files))
    rows, parts = perform("validate", run), perform("split", run)
    assert isinstance(rows, ValidRows) and isinstance(parts, DatasetParts)
    assert (rows.read, rows.valid) == (15005 + 3737, 18742)
    assert parts.dropped == {"duplicate": 1} | ({"not drawn": 3749 - 300} if profile == "local" else {})
    # a fifth of the 18,741 rows that are left is 3,748.2
    expected = {"train": 18741 - 3749 - validation, "validation": validation, "test": test}
    assert {name: part.rows for name, part in parts.parts.items()} == expected
    files_of = Counter((name, file) for (file, _), (name, _, _) in found(run, parts).items())
    share = files_of["test", "test"] / test
    assert abs(share - 3737 / 18741) < 4 * (0.2 * 0.8 / test) ** 0.5, "at random: the valid file has its share of the test part"
