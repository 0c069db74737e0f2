"""What the published data sets ask of the step split: test files, several labels, groups, upsampling, answers."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import DatasetParts, ValidRows
from tasks.data import parquet
from tasks.data.partition import LabelledRow, count, split_rows, upsampled
from tasks.errors import DataError
from tasks.schema.data import Split
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

NAMES = ("negative", "neutral", "positive")
PUBLISHED = {"source": {"file": "/test.csv"}}
Start = Callable[..., tuple[Run, DatasetParts]]
Columns = dict[str, list[str]]


@pytest.fixture
def done(make_run: Callable[..., Run]) -> Start:
    """A run that has validated and split these columns."""

    def starting(
        columns: Columns, published: Columns | None = None, document: dict[str, Any] | None = None, **overrides: Any
    ) -> tuple[Run, DatasetParts]:
        run = make_run(document or tiny.recipe_document(Path("/nowhere"), Path("/nowhere.csv")), **overrides)
        for name, each in (("rows", columns), ("test_rows", published)):
            if each:
                parquet.write(run.folder / f"{name}.parquet", ("line", range(2, len(each["text"]) + 2)), each)
        test_rows = "test_rows.parquet" if published else None
        run.write(ValidRows("rows.parquet", "rejects", "report.html", 1, 1, {}, test_rows))
        parts = perform("split", run)
        assert isinstance(parts, DatasetParts)
        return run, parts

    return starting


def tweets(rows: int, seed: int = 0) -> Columns:
    made = tiny.tweets(rows, seed)
    return {"text": [text for text, _ in made], "label": [label for _, label in made]}


def read(run: Run, parts: DatasetParts, name: str) -> tuple[list[int], Columns]:
    return parquet.read(run.path(parts.parts[name].path))  # type: ignore[index]


def test_published_rows_are_the_test_part_and_leave_train(done: Start) -> None:
    rows, published = tweets(120), tweets(40, seed=5)
    rows["text"][7] = "  " + published["text"][3].upper() + "!?"
    run, parts = done(rows, published, data__test=PUBLISHED, split__test=0, split__validation=15, split__balance="none")
    lines, test = read(run, parts, "test")
    assert sorted(zip(lines, test["text"], test["label"], strict=True)) == list(
        zip(range(2, 42), published["text"], published["label"], strict=True)
    )
    assert parts.dropped["leak"] >= 1
    kept = {line for name in ("train", "validation") for line in read(run, parts, name)[0]}
    assert 9 not in kept
    assert len(kept) == 120 - parts.dropped["leak"]


def test_published_rows_are_drawn_by_seed_with_their_shares(done: Start) -> None:
    keys = {"data__test": PUBLISHED, "split__test": 0, "split__published_rows": 12}
    (run, parts), (other_run, other) = (
        done(tweets(120), tweets(60, seed=5), run_id=f"seed-{seed}", split__seed=seed, **keys) for seed in (1, 2)
    )
    assert parts.parts["test"].labels == dict.fromkeys(NAMES, 4)
    assert parts.dropped["not drawn"] == 48
    assert set(read(run, parts, "test")[0]) != set(read(other_run, other, "test")[0])
    _, together = done(tweets(120), tweets(60, seed=5), run_id="both", **{**keys, "split__test": 9})
    assert together.parts["test"].rows == 21
    with pytest.raises(DataError, match=r"class positive \(.* rows\) has none in test"):
        done(
            tweets(120),
            {"text": ["a b", "c d"], "label": ["neutral", "negative"]},
            run_id="none",
            **{**keys, "split__published_rows": None},
        )


def test_a_fault_names_the_published_file(done: Start) -> None:
    with pytest.raises(DataError, match=r"split: line 2 of data.test: sentiment is 'what' .expected: one of"):
        done(tweets(120), {"text": ["a"], "label": ["what"]}, data__test=PUBLISHED, split__test=0)


def several(rows: int) -> list[LabelledRow]:
    sets = [("negative",), ("neutral",), ("negative", "neutral"), ("positive",), ("negative", "neutral", "positive")]
    return [LabelledRow(line, f"text {line}", sets[0 if line % 9 else line // 9 % 5]) for line in range(rows)]


def test_several_labels_keep_their_shares() -> None:
    rows = several(900)
    parts = split_rows(rows, Split(seed=1, test=90, validation=45), NAMES)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [765, 45, 90]
    whole = count(rows)
    for part, share in (("test", 0.1), ("validation", 0.05)):
        for name in NAMES:
            assert abs(count(parts[part])[name] - share * whole[name]) < 3  # type: ignore[index]


@given(
    sets=st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=50),
    groups=st.lists(st.integers(0, 200), min_size=120, max_size=120),
    seed=st.integers(0, 99),
)
def test_groups_of_any_rows_stay_together(sets: list[set[str]], groups: list[int], seed: int) -> None:
    whole = [*({name} for name in NAMES * 12), *sets]
    rows = [LabelledRow(line, f"text {line}", tuple(name for name in NAMES if name in own)) for line, own in enumerate(whole)]
    group_of = {row.origin: group for row, group in zip(rows, groups, strict=False)}
    try:
        parts = split_rows(rows, Split(seed=seed, test=9, validation=6), NAMES, groups=group_of)
    except DataError as error:
        assert "has none in" in str(error)
        return
    assert sorted((row for part in parts.values() for row in part), key=lambda row: row.line) == rows
    assert len(parts["test"]) <= 9 and len(parts["validation"]) <= 6
    parts_of = {
        group_of[row.origin]: {name for name, part in parts.items() for each in part if group_of[each.origin] == group_of[row.origin]}
        for row in rows
    }
    assert all(len(names) == 1 for names in parts_of.values())


def test_several_labels_in_a_part(done: Start) -> None:
    rule = {"by": "columns", "columns": {"negative": "n", "positive": "p"}, "none": "neutral"}
    marks = [(index % 2, index % 3 == 0) for index in range(240)]
    columns = {
        "text": [f"text {index}" for index in range(240)],
        "rule:n": [str(negative) for negative, _ in marks],
        "rule:p": [str(int(positive)) for _, positive in marks],
    }
    keys = {"labels__rule": rule, "data__label": None, "split__balance": "none"}
    several = {"kind": "label_generation", "prompt__answer": "{labels}", "gate__metric": "micro_f1", "gate__floors": {}}
    run, parts = done(columns, **keys, **several)
    labels = Counter(read(run, parts, "test")[1]["label"])
    assert labels == {"negative": 20, "positive": 10, "negative|positive": 10, "neutral": 20}
    assert parts.parts["test"].labels == {"negative": 30, "neutral": 20, "positive": 20}
    run, parts = done(columns, run_id="single", **keys)
    assert parts.dropped == {"several labels": 40}


def test_near_copies_stay_in_one_part(done: Start) -> None:
    letters = [f"a letter of complaint number {index} was sent to the paper" for index in range(60)]
    texts = [*letters, *(f"{index} x{index} y{index} z{index}" for index in range(240))]
    columns = {"text": texts, "label": [NAMES[index % 3] for index in range(300)]}
    run, parts = done(columns, split__groups="near_copies", split__balance="none")
    assert [part.rows for part in parts.parts.values()] == [210, 30, 60]
    assert {line for line, text in zip(*_texts(run, parts, "train"), strict=True) if "letter" in text} == set(range(2, 62))
    published = {"text": [letters[0] + " again", "p q r s", "t u v w"], "label": list(NAMES)}
    keys = {"split__groups": "near_copies", "data__test": PUBLISHED, "split__test": 0}
    _, parts = done(columns, published, run_id="leak", **keys)
    assert parts.dropped["leak"] == 60


def _texts(run: Run, parts: DatasetParts, name: str) -> tuple[list[int], list[str]]:
    lines, columns = read(run, parts, name)
    return lines, columns["text"]


def test_upsampling_repeats_rows_of_train_alone(done: Start) -> None:
    labels = ["negative" if index % 10 else NAMES[1 + index // 10 % 2] for index in range(300)]
    columns = {"text": [f"text {index}" for index in range(300)], "label": labels}
    run, parts = done(columns, split__balance="upsample")
    _, plain = done(columns, run_id="plain", split__balance="none")
    most = plain.parts["train"].labels["negative"]
    assert parts.parts["train"].labels == dict.fromkeys(NAMES, most)
    assert parts.copies == 3 * most - plain.parts["train"].rows
    assert parts.dropped == {}
    assert [parts.parts[name] for name in ("validation", "test")] == [
        type(part)(part.path.replace("plain", "test"), part.rows, part.labels) for part in (plain.parts["validation"], plain.parts["test"])
    ]
    often = Counter(read(run, parts, "train")[0])
    assert set(often) == set(read(run, parts, "train")[0]) and len(often) == plain.parts["train"].rows
    for name in NAMES:
        counts = {often[line] for line, label in zip(range(2, 302), labels, strict=True) if label == name and line in often}
        assert max(counts) - min(counts) <= 1, "each row as often as the others of its class"


def test_copies_do_not_stand_side_by_side() -> None:
    rows = [LabelledRow(line, f"text {line}", ("a" if line < 100 else "b",)) for line in range(104)]
    order = upsampled(rows, 3)
    assert len(order) == 200
    assert Counter(row.labels[0] for row in order[:60]).keys() == {"a", "b"}
    assert sum(one == other for one, other in pairwise(order)) < 20
    assert order == upsampled(rows, 3) != upsampled(rows, 4)


def test_answers_and_no_labels(done: Start) -> None:
    columns = {
        "text": ["same", "same", "same", *(f"question {index}" for index in range(97))],
        "answer": ["yes", "no", "yes", *(f"answer {index}" for index in range(97))],
    }
    chat = tiny.recipe_document(Path("/nowhere"), Path("/nowhere.csv")) | {"kind": "chat", "labels": {}}
    chat |= {"prompt": {"max_tokens": 512}, "gate": {"metric": "log_likelihood"}, "split": {"seed": 1, "test": 20, "validation": 10}}
    keys = {"document": chat, "data__label": None, "data__answer": "a"}
    run, parts = done(columns, **keys)
    assert parts.dropped == {"duplicate": 1}, "an answer of its own makes a row of its own"
    assert {name: (part.rows, part.labels) for name, part in parts.parts.items()} == {
        "train": (69, {}), "validation": (10, {}), "test": (20, {}),
    }  # fmt: skip
    found = read(run, parts, "train")[1]
    assert list(found) == ["text", "answer", "rejected"]
    assert set(found["rejected"]) == {""}
    with pytest.raises(DataError, match=r"split: 3 rows \(expected: 3 for test, 0 for validation and one a class for train\)"):
        done({name: values[97:] for name, values in columns.items()}, run_id="few", split__test=3, split__validation=0, **keys)
