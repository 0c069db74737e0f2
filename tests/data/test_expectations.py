"""Great Expectations over parsed rows: which rows break, what stops, what a recipe may not say."""

from pathlib import Path
from typing import Any

import pytest

from tasks.data.expectations import Outcome, check, rules
from tasks.data.read_file import ParsedFile, SourceLine
from tasks.errors import DataError, RecipeError
from tasks.schema.data import Expectation


def judge(rows: list[list[str]], *expectations: dict[str, Any]) -> list[Outcome]:
    parsed = ParsedFile(["text", "label"], rows, [SourceLine(index + 2, 0, 0) for index in range(len(rows))])
    stated = [Expectation.model_validate({"reason": "broken", **expectation}) for expectation in expectations]
    return check(rules(stated), parsed, "data.csv")


@pytest.mark.parametrize(
    ("expectation", "good", "bad"),
    [
        ({"expect": "expect_column_values_to_not_be_null", "column": "text"}, "a", " \t"),
        ({"expect": "expect_column_value_lengths_to_be_between", "column": "text", "min_value": 3, "max_value": 5}, "가나다", "가나"),
        ({"expect": "expect_column_values_to_be_in_set", "column": "text", "value_set": ["x", "y"]}, "x", "X"),
        ({"expect": "expect_column_values_to_be_in_set", "column": "text", "value_set": [0, 1]}, "1", "2"),
        ({"expect": "expect_column_values_to_be_between", "column": "text", "min_value": 0, "max_value": 1}, "0.25", "10"),
        ({"expect": "expect_column_values_to_match_regex", "column": "text", "regex": "^[a-z]+$"}, "abc", "ABC"),
        ({"expect": "expect_column_pair_values_to_be_equal", "column_A": "text", "column_B": "label"}, "label", "text"),
    ],
)
def test_rows_that_break_an_expectation(expectation: dict[str, Any], good: str, bad: str) -> None:
    (outcome,) = judge([[good, "label"], [bad, "label"], [good, "label"]], expectation)
    assert outcome.rule.of_rows
    assert not outcome.kept
    assert outcome.failing_rows == {1: "broken"}
    assert outcome.checked == 3
    (outcome,) = judge([[good, "label"]], expectation)
    assert (outcome.kept, outcome.failing_rows) == (True, {})


def test_empty_fields_are_no_numbers_and_break_nothing_but_the_expectation_about_nulls() -> None:
    between = {"expect": "expect_column_values_to_be_between", "column": "label", "min_value": 0, "max_value": 1}
    (outcome,) = judge([["a", "0.5"], ["b", ""], ["c", "high"], ["d", "2"]], between)
    assert outcome.failing_rows == {2: "label is not a number", 3: "broken"}
    assert outcome.checked == 3


def test_expectations_about_the_table() -> None:
    rows = [["a", "1"], ["b", "2"], ["c", "none"]]
    mean, count, exists = judge(
        rows,
        {"expect": "expect_column_mean_to_be_between", "column": "label", "min_value": 1.4, "max_value": 1.6},
        {"expect": "expect_table_row_count_to_be_between", "min_value": 10},
        {"expect": "expect_column_to_exist", "column": "year"},
    )
    assert (mean.kept, mean.observed, mean.failing_rows) == (True, "1.5", {2: "label is not a number"})
    assert (count.kept, count.observed, count.failing_rows, count.rule.of_rows) == (False, "3", {}, False)
    assert not exists.kept


def test_what_the_file_says_is_not_shown() -> None:
    rows = [["a secret", "x"], ["a secret", "y"]]
    (outcome,) = judge(rows, {"expect": "expect_column_distinct_values_to_be_in_set", "column": "text", "value_set": ["b"]})
    assert (outcome.kept, outcome.observed) == (False, "")


def test_a_share_of_the_rows_may_break_what_only_stops() -> None:
    rows = [["a", "x"], ["", "x"], ["c", "x"]]
    not_null = {"expect": "expect_column_values_to_not_be_null", "column": "text", "severity": "stop"}
    assert [outcome.kept for outcome in judge(rows, {**not_null, "mostly": 0.6}, {**not_null, "mostly": 0.7})] == [True, False]


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        (
            {"expect": "expect_column_value_to_not_be_null", "column": "text"},
            "validate.expectations.1: expect_column_value_to_not_be_null is no expectation of Great Expectations. Fix: "
            "did you mean expect_column_values_to_not_be_null?",
        ),
        ({"expect": "expect_zzz"}, "validate.expectations.1: expect_zzz is no expectation of Great Expectations. Fix: remove it"),
        (
            {"expect": "expect_column_values_to_not_be_null", "colum": "text", "column": "text"},
            "validate.expectations.1: colum is not an argument of expect_column_values_to_not_be_null. Fix: did you mean column?",
        ),
        (
            {"expect": "expect_column_value_lengths_to_be_between", "column": "text", "min_value": "long"},
            "validate.expectations.1: expect_column_value_lengths_to_be_between: min_value: value is not a valid integer. Fix: correct it",
        ),
        (
            {"expect": "expect_column_values_to_not_be_null", "column": "text", "mostly": 0.9},
            "validate.expectations.1: mostly is given with severity reject, which sets every failing row aside. Fix: "
            "remove it, or set severity: stop",
        ),
        (
            {"expect": "expect_table_row_count_to_equal_other_table", "other_table_name": "x"},
            "validate.expectations.1: expect_table_row_count_to_equal_other_table asks a database (expected: an "
            "expectation over the file's rows). "
            "Fix: remove it",
        ),
        (
            {"expect": "expect_column_values_to_match_regex", "column": "text", "regex": "("},
            "validate.expectations.1: expect_column_values_to_match_regex cannot be checked (",
        ),
    ],
)
def test_what_great_expectations_does_not_accept(expectation: dict[str, Any], message: str) -> None:
    good = {"expect": "expect_column_values_to_not_be_null", "column": "text"}
    with pytest.raises(RecipeError) as error:
        judge([["a", "x"]], good, expectation)
    assert str(error.value).startswith(message)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(DataError) as error:
        judge([["a", "x"]], {"expect": "expect_column_values_to_not_be_null", "column": "txt"})
    assert str(error.value) == (
        "data.csv: no column 'txt', which expect_column_values_to_not_be_null names. Fix: correct validate.expectations.0"
    )


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    judge([["a", "x"]], {"expect": "expect_column_values_to_not_be_null", "column": "text"})
    assert list(tmp_path.iterdir()) == []
    assert "Calculating" not in capfd.readouterr().err
