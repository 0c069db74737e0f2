"""The step validate: what goes on, what is set aside, what stops, and the page about it."""

import csv
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import BaseModelFiles, Download, SourceFile, ValidRows
from tasks.data import parquet
from tasks.errors import ContractError, DataError, Skip
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

GOOD = b"text,sentiment\n" + b"".join(f"{text},{label}\n".encode() for text, label in tiny.tweets(30))
Start = Callable[..., Run]


@pytest.fixture
def start(make_run: Callable[..., Run]) -> Start:
    """A run whose data file holds these bytes."""

    def starting(raw: bytes | None, expectations: list[dict[str, Any]] | None = None, **overrides: Any) -> Run:
        document = tiny.recipe_document(Path("/nowhere"), Path("/nowhere.csv"))
        if expectations is not None:
            document["validate"]["expectations"] = expectations
        run = make_run(document, **overrides)
        source = None
        if raw is not None:
            path = run.folder / "download" / "tweets.csv"
            path.parent.mkdir()
            path.write_bytes(raw)
            source = SourceFile("made in the test", run.relative(path), hashlib.sha256(raw).hexdigest(), len(raw))
        run.write(Download(BaseModelFiles("folder:/nowhere", "0", "base"), source))
        return run

    return starting


def rejects_of(folder: Path) -> list[tuple[int, str, bytes]]:
    raw = (folder / "rejects.bin").read_bytes()
    with (folder / "rejects.csv").open(newline="") as stream:
        return [
            (int(row["line"]), row["reason"], raw[int(row["offset"]) : int(row["offset"]) + int(row["length"])])
            for row in csv.DictReader(stream)
        ]


def test_rejected_rows_keep_line_reason_and_bytes(start: Start) -> None:
    run = start(GOOD + b'bad \xe9,neutral\n ,neutral\n"over\nlines",nuetral\r\nlast,positive', validate__max_reject_share=0.1)
    rows = perform("validate", run)
    assert isinstance(rows, ValidRows)
    assert (rows.read, rows.valid) == (34, 31)
    assert rows.rejected == {"not UTF-8": 1, "no text": 1, "unknown label": 1}
    assert rejects_of(run.path(rows.rejects)) == [
        (32, "not UTF-8", b"bad \xe9,neutral\n"),
        (33, "no text", b" ,neutral\n"),
        (34, "unknown label", b'"over\nlines",nuetral\r\n'),
    ]
    lines, columns = parquet.read(run.path(rows.rows))
    assert lines == [*range(2, 32), 36]
    assert columns["text"][-1] == "last"
    assert list(zip(columns["text"], columns["label"], strict=True))[:30] == tiny.tweets(30)


def test_a_row_counts_under_its_first_reason(start: Start) -> None:
    rows = perform("validate", start(GOOD + b",nothing\n"))
    assert isinstance(rows, ValidRows)
    assert rows.rejected == {"no text": 1}


def test_too_many_rejects_stop_the_run_and_stay(start: Start) -> None:
    run = start(GOOD + b"\xff,neutral\n" * 2, validate__max_reject_share=0.0625)  # 2 of 32 rows
    assert perform("validate", run).rejected == {"not UTF-8": 2}  # type: ignore[union-attr]
    run = start(GOOD + b"\xff,neutral\n" * 2, run_id="stricter", validate__max_reject_share=0.0624)
    rejects = run.folder / "validate" / "g0-a1" / "rejects"
    with pytest.raises(DataError) as error:
        perform("validate", run)
    assert str(error.value) == (
        f"validate: 2 of 32 rows rejected (6.2 %) (expected: at most 6.24 %). Fix: see {rejects / 'rejects.csv'} (not UTF-8, for most)"
    )
    assert [line for line, _, _ in rejects_of(rejects)] == [32, 33]
    assert "2 of 32 rows rejected" in (rejects.parent / "report.html").read_text()
    assert not run.has(ValidRows)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "tweets.csv: the file is empty (expected: a header and rows)"),
        (b"text,sentiment\n", "tweets.csv: a header and no rows (expected: rows). Fix: look at the source"),
        (b"text,sentiment\n\xff,neutral\n,neutral\n", "validate: none of the 2 rows of tweets.csv is usable ("),
        (GOOD.replace(b"sentiment", b"feeling"), "tweets.csv: columns 'text', 'feeling' (expected: a column 'sentiment')"),
        (GOOD.replace(b",", b";"), "tweets.csv: one column 'text;sentiment' with delimiter ',' (expected: columns 'text' and 'sentiment')"),
    ],
)
def test_unusable_files(start: Start, raw: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        perform("validate", start(raw))
    assert str(error.value).startswith(message)


def test_a_megabyte_line_is_one_reject(start: Start) -> None:
    rows = perform("validate", start(GOOD + b"a" * 1_000_000 + b",neutral\nshort,neutral\n"))
    assert isinstance(rows, ValidRows)
    assert (rows.valid, rows.rejected) == (31, {"line longer than 100000 bytes": 1})


def test_an_expectation_that_stops(start: Start) -> None:
    not_null = {"expect": "expect_column_values_to_not_be_null", "column": "text", "reason": "no text", "severity": "stop"}
    run = start(GOOD + b",neutral\n", [not_null])
    with pytest.raises(DataError) as error:
        perform("validate", run)
    assert str(error.value) == (
        "validate: no text (expect_column_values_to_not_be_null: 1 of 31 rows). Fix: "
        f"see {run.folder / 'validate' / 'g0-a1' / 'report.html'}"
    )
    enough = {"expect": "expect_table_row_count_to_be_between", "min_value": 100, "reason": "too few rows"}
    with pytest.raises(DataError, match=r"too few rows \(expect_table_row_count_to_be_between: observed 30\)\. Fix: see"):
        perform("validate", start(GOOD, [enough], run_id="few"))


def test_only_new_data_is_checked(start: Start) -> None:
    with pytest.raises(Skip, match=r"validate: data is v3, and that version is already validated"):
        perform("validate", start(GOOD, run__data="v3"))
    with pytest.raises(ContractError, match=r"download.json: no data file \(expected: one where data is new\)\. Fix: run download again"):
        perform("validate", start(None, run_id="none"))


def test_the_page_reads_offline_and_shows_no_text(start: Start) -> None:
    run = start(
        b"text,sentiment\n<script>alert(1)</script>,posit<i>ve\nsecret word,neutral\n" * 1 + GOOD[15:], validate__max_reject_share=0.5
    )
    rows = perform("validate", run)
    assert isinstance(rows, ValidRows)
    page = run.path(rows.report).read_text(encoding="utf-8")
    for raw in ("alert", "<script", "secret word", "posit<i>ve", "lovely"):
        assert raw not in page
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)
    for shown in (
        "unknown label",
        "expect_column_values_to_be_in_set",
        "made in the test",
        rows.rows.split("/")[0],
        "prefers-color-scheme",
    ):
        assert shown in page
    assert hashlib.sha256((run.folder / "download" / "tweets.csv").read_bytes()).hexdigest() in page


def test_the_page_shows_no_label_but_the_recipes_and_escapes_the_recipe(start: Start) -> None:
    short = {"expect": "expect_column_value_lengths_to_be_between", "column": "text", "max_value": 99, "reason": "<i>too long"}
    run = start(GOOD + b"a text,a whole sentence by mistake\n", [short])
    page = run.path(perform("validate", run).report).read_text()  # type: ignore[union-attr]
    assert "by mistake" not in page
    assert re.search(r'scope="row">another value</th>.*?"number">1<', page, re.DOTALL)
    assert "&lt;i&gt;too long" in page


def test_labels_that_are_numbers(start: Start) -> None:
    raw = b"text,sentiment\n" + b"".join(b"text %d,%.3f\n" % (index, index / 40) for index in range(40)) + b"one,\n"
    run = start(
        raw,
        [],
        labels={
            "names": ["no", "yes"],
            "positive": "yes",
            "rule": {"by": "threshold", "threshold": 0.5, "at_or_above": "yes", "below": "no"},
        },
    )
    page = run.path(perform("validate", run).report).read_text()  # type: ignore[union-attr]
    bars = re.findall(r'scope="row">([^<]*)</th>.*?"number">(\d+)<', page, re.DOTALL)
    assert bars[0] == ("0 to 0.0975", "4")
    assert bars[-1] == ("not a number", "1")
    assert sum(int(count) for _, count in bars) == 41


def test_the_step_does_not_import_torch() -> None:
    code = "import sys, tasks.validate, tasks.split; print(sorted({'torch', 'pandas', 'great_expectations', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def with_test_file(run: Run, raw: bytes, name: str = "test.csv") -> Run:
    """The run, with a published test file of these bytes."""
    path = run.folder / "test_source" / name
    path.parent.mkdir()
    path.write_bytes(raw)
    download = run.read(Download)
    published = SourceFile("published", run.relative(path), hashlib.sha256(raw).hexdigest(), len(raw))
    run.write(Download(download.base_model, download.source, published))
    return run


PUBLISHED = {"source": {"file": "/test.csv"}, "delimiter": ";"}
TEST_ROWS = b"text;sentiment\n" + b"".join(f"{text};{label}\n".encode() for text, label in tiny.tweets(20, seed=1))


def test_both_files_are_checked_and_told_apart(start: Start) -> None:
    run = with_test_file(
        start(GOOD + b",neutral\n", data__test=PUBLISHED, split__test=0, validate__max_reject_share=0.1), TEST_ROWS + b"\xff;neutral\n"
    )
    rows = perform("validate", run)
    assert isinstance(rows, ValidRows) and rows.test_rows
    assert (rows.read, rows.valid, rows.rejected) == (52, 50, {"no text": 1, "not UTF-8": 1})
    lines, columns = parquet.read(run.path(rows.test_rows))
    assert (lines, columns["text"]) == ([*range(2, 22)], [text for text, _ in tiny.tweets(20, seed=1)])
    with (run.path(rows.rejects) / "rejects.csv").open(newline="") as stream:
        assert [(row["file"], row["line"], row["reason"]) for row in csv.DictReader(stream)] == [
            ("tweets.csv", "32", "no text"), ("test.csv", "22", "not UTF-8"),
        ]  # fmt: skip
    assert rejects_of(run.path(rows.rejects))[1][2] == b"\xff;neutral\n"
    page = run.path(rows.report).read_text(encoding="utf-8")
    for shown in ("tweets.csv", "test.csv", "the published test rows", "Labels, as in the file of test.csv", "parted by semicolons"):
        assert shown in page
    assert re.findall(r'"number">(\d+)</td><td class="number">(\d+)</td><td class="number">(\d+)</td></tr>', page) == [
        ("31", "30", "1"), ("21", "20", "1"),
    ]  # fmt: skip


def test_each_file_must_hold_by_itself(start: Start) -> None:
    bad = TEST_ROWS + b"\xff;neutral\n" * 3
    run = with_test_file(start(GOOD, data__test=PUBLISHED, split__test=0, validate__max_reject_share=0.1), bad, "tweets.csv")
    with pytest.raises(DataError, match=r"validate: 3 of 23 rows of test_source/tweets.csv rejected \(13.0 %\) \(expected: at most 10 %\)"):
        perform("validate", run)
    with pytest.raises(ContractError, match=r"download.json: no data file \(expected: one where data is new\)\. Fix: run download again"):
        perform("validate", start(GOOD, run_id="none", data__test=PUBLISHED, split__test=0))


def test_an_expectation_may_speak_of_one_file(start: Start) -> None:
    long = {"expect": "expect_column_value_lengths_to_be_between", "column": "text", "max_value": 100, "reason": "too long"}
    bad = TEST_ROWS + b"a" * 101 + b";neutral\n"
    run = with_test_file(start(GOOD, [{**long, "file": "test", "severity": "stop"}], data__test=PUBLISHED, split__test=0), bad)
    with pytest.raises(
        DataError, match=r"validate: too long \(expect_column_value_lengths_to_be_between: 1 of 21 rows of test.csv\)\. Fix: see"
    ):
        perform("validate", run)
    mine = [{**long, "file": "data"}]
    run = with_test_file(start(GOOD, mine, run_id="data", data__test=PUBLISHED, split__test=0), TEST_ROWS)
    page = run.path(perform("validate", run).report).read_text()  # type: ignore[union-attr]
    assert "The recipe states none for this file." in page


def test_the_page_counts_labels_by_the_rule(start: Start) -> None:
    raw = b"text,a,b\n" + b"".join(b"text %d,%d,%d\n" % (index, index % 2, index % 3 == 0) for index in range(12)) + b"odd,2,0\n"
    rule = {"by": "columns", "columns": {"one": "a", "two": "b"}}
    labels = {"names": ["one", "two"], "positive": "one", "rule": rule}
    run = start(raw, [], labels=labels, data__label=None)
    rows = perform("validate", run)
    assert isinstance(rows, ValidRows)
    assert list(parquet.read(run.path(rows.rows))[1]) == ["text", "rule:a", "rule:b"]
    page = run.path(rows.report).read_text()
    bars = re.findall(r'scope="row">([^<]*)</th>.*?"number">(\d+)<', page, re.DOTALL)
    assert bars == [("one", "6"), ("two", "4"), ("several labels", "2"), ("no label", "4"), ("another value", "1")]
