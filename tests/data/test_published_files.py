"""The published files of the recipes, read by keys alone: their counts come out as their authors and our own count state them.

The recipes are the shipped ones, with not a line of code for any file; no text of the files stands here.
"""

import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import BaseModelFiles, DatasetParts, Download, Part, SourceFile, ValidRows
from tasks.data import near_duplicates, parquet
from tasks.schema import load as recipes
from tasks.schema.data import Table
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

Prepare = Callable[..., tuple[Run, ValidRows, DatasetParts]]


@pytest.fixture
def prepare(make_run: Callable[..., Run], mirror: Path) -> Prepare:
    """Validate and split a shipped recipe, single keys replaced (section__key=value)."""

    def preparing(name: str, **keys: Any) -> tuple[Run, ValidRows, DatasetParts]:
        run = make_run(recipes.load(recipes.RECIPES / f"{name}.yaml"), **keys)

        def placed(table: Table, folder: str) -> SourceFile:
            original = mirror / str(table.source.mirror)
            path = run.folder / folder / original.name
            path.parent.mkdir()
            link_or_copy(original, path)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            assert sha256 == table.source.sha256, "the file that the recipe means"
            return SourceFile("mirror", run.relative(path), sha256, path.stat().st_size)

        data = run.recipe.data
        run.write(Download(BaseModelFiles("b", "0", "b"), placed(data, "source"), placed(data.test, "test_source") if data.test else None))
        rows, parts = perform("validate", run), perform("split", run)
        assert isinstance(rows, ValidRows) and isinstance(parts, DatasetParts)
        return run, rows, parts

    return preparing


def columns(run: Run, part: Part) -> dict[str, list[str]]:
    return parquet.read(run.path(part.path))[1]


def total(parts: DatasetParts, label: str) -> int:
    return sum(part.labels[label] for part in parts.parts.values())


def test_unsmile(prepare: Prepare) -> None:
    run, rows, parts = prepare("unsmile")
    marked = run.recipe.labels.rule.columns  # type: ignore[union-attr]
    assert (rows.read, rows.valid, rows.rejected) == (15005 + 3737, 18742, {})
    test = parts.parts["test"]
    assert (test.rows, [test.labels[name] for name in marked]) == (3737, [394, 334, 280, 426, 146, 260, 290, 134])
    assert test.labels["None"] == 3737 - 2016
    # One of two equal texts, and three that are test rows but for spaces and punctuation; of labels, only theirs are missing.
    assert parts.dropped == {"duplicate": 1, "leak": 3}
    assert (parts.parts["train"].rows, parts.parts["validation"].rows) == (15005 - 4 - 1000, 1000)
    _, all_rows = parquet.read(run.path(rows.rows))
    counts = [sum(value == "1" for value in all_rows[f"rule:{column}"]) for column in marked.values()]
    assert counts == [1599, 1347, 1141, 1728, 603, 1052, 1181, 569]
    # The two rows of the file without any label are None by the rule.
    labels: dict[int, str] = {}
    for name in ("train", "validation"):
        numbers, part = parquet.read(run.path(parts.parts[name].path))  # type: ignore[index]
        labels |= dict(zip(numbers, part["label"], strict=True))
    assert (labels[5878], labels[11944]) == ("None", "None")
    several = [label.split("|") for label in columns(run, test)["label"] if "|" in label]
    assert several and all(own == [name for name in marked if name in own] for own in several)
    assert min(parts.parts["validation"].labels.values()) == 38


def test_kote(prepare: Prepare) -> None:
    run, rows, parts = prepare("sentiment_ko")
    assert (rows.read, rows.valid) == (5000, 5000)
    assert parts.dropped == {"no label": 1463, "several labels": 469}
    assert {name: total(parts, name) for name in run.recipe.labels.names} == {"무감정": 510, "슬픔": 254, "기쁨": 989, "분노": 1315}
    assert [part.rows for part in parts.parts.values()] == [3068 - 700, 300, 400]


def test_stop_hate(prepare: Prepare) -> None:
    run, rows, parts = prepare("stop_hate")
    assert (rows.read, rows.valid) == (2483 + 2312, 4795)
    assert parts.dropped == {"empty answer": 4, "pair differs before the last turn": 5}
    assert {name: (part.rows, part.labels) for name, part in parts.parts.items()} == {
        "train": (2183, {}), "validation": (100, {}), "test": (200 + 2303, {}),
    }  # fmt: skip
    train, test = (columns(run, parts.parts[name]) for name in ("train", "test"))  # type: ignore[index]
    assert list(train) == list(test) == ["file", "text", "answer", "rejected"]
    assert not any(train["rejected"]) and all(train["answer"]) and all(test["answer"])
    assert sum(map(bool, test["rejected"])) == 2303
    dialogues = [run.recipe.data.messages(text) for text in test["text"]]
    assert all(turns[-1][0] == "user" for turns in dialogues)
    assert max(map(len, dialogues)) > 10


def test_gitana(prepare: Prepare) -> None:
    shipped = recipes.load(recipes.RECIPES / "gitana.yaml")["validate"]["expectations"]
    filled = [each for each in shipped if each["expect"] == "expect_column_values_to_not_be_null"]  # lengths are no matter of counts
    run, rows, parts = prepare("gitana", split__balance="none", validate__expectations=filled)
    assert (rows.read, rows.valid, rows.rejected) == (3397, 1641, {"no intervention": 1753, "no result": 3})
    assert parts.dropped == {"duplicate": 24}
    assert {name: total(parts, name) for name in run.recipe.labels.names} == {"Negativo": 776, "Positivo": 463, "Neutro": 378}
    assert [part.rows for part in parts.parts.values()] == [1617 - 240, 80, 160]
    found = [columns(run, part) for part in parts.parts.values()]
    assert any("\u00a0" in text for text in found[0]["text"]), "what the file says stays as it is"
    part_of = [index for index, part in enumerate(found) for _ in part["text"]]
    for column in ("text", "intervencion"):
        pairs = list(near_duplicates.near(list(chain.from_iterable(part[column] for part in found))))
        assert len(pairs) > 40
        assert all(part_of[one] == part_of[other] for one, other in pairs)
