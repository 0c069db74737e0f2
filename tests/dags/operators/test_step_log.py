"""What a step prints, on its way into a task's log."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dags.operators.step_log import LogPosition, StepLog, nanoseconds, timestamp


def test_a_block_that_is_not_the_last_is_said_with_the_rest() -> None:
    said: list[tuple[str, float]] = []
    log = StepLog(lambda text, at: said.append((text, at)))
    for at, line in enumerate(("a", "", "Traceback (most recent call last):", "  caught", "ValueError: x")):
        log.take(line, at)
    assert log.last_words == "Traceback (most recent call last):\n  caught\nValueError: x"
    for line in ("b", "DataError", "rows: none", ""):
        log.take(line, 60)
    assert log.last_words == "DataError\nrows: none"
    assert said == [("a", 0), ("Traceback (most recent call last):\n  caught\nValueError: x", 2), ("b", 60)]
    log.flush()
    assert said[-1] == ("DataError\nrows: none\n", 60) and log.last_words == ""


def test_a_time_is_read_to_the_nanosecond() -> None:
    assert nanoseconds("1970-01-01T00:00:01.000000002Z") == 1_000_000_002
    assert nanoseconds("1970-01-01T02:00:01.5+02:00") == 1_500_000_000
    assert nanoseconds("1970-01-01T00:01:00Z") == 60_000_000_000
    assert timestamp(1.5) == "1970-01-01T00:00:01.500000Z"
    for text in ("", "unable", "1970-01-01", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z"):
        with pytest.raises(ValueError):
            nanoseconds(text)


def line(at: int, text: str) -> str:
    return f"1970-01-01T00:00:00.{at:09d}Z {text}"


def test_what_was_read_before_is_not_read_again_and_remarks_of_the_api_are_not_lines() -> None:
    place = LogPosition()
    first = [line(1, "a"), line(2, "b"), line(2, "b")]
    assert [text for _, text in place.unread(first)] == ["a", "b", "b"]
    assert list(place.unread(first)) == []
    assert list(place.unread([*first, line(2, "c"), line(3, "d with  spaces "), "unable to retrieve container logs"])) == [
        (2e-9, "c"),
        (3e-9, "d with  spaces "),
    ]
    assert (place.at, place.lines) == (3, 1)


@given(some.lists(some.integers(0, 4)), some.lists(some.integers(0, 30)))
def test_however_often_a_growing_log_is_read_each_line_is_read_once(steps: list[int], cuts: list[int]) -> None:
    at, log = 0, []
    for number, step in enumerate(steps):
        at += step
        log.append(line(at + 1, str(number)))
    place, read = LogPosition(), []
    for cut in [*sorted(cuts), len(log)]:
        read += [text for _, text in place.unread(log[:cut])]
    assert read == [str(number) for number in range(len(log))]
