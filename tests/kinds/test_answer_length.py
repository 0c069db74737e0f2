"""A chat's answer that leaves its text too little room: no row is longer than `prompt.max_tokens`, those left out are counted."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Adapter, DatasetVersion, Evaluation, MergedModel
from tasks.errors import DataError
from tasks.kinds import chat
from tasks.kinds.base import AnswerTooLong, examples_of
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains

TEMPLATE = "{% for message in messages %}{{ '[INST] ' if message['role'] == 'user' else '' }}{{ message['content'] }} {% endfor %}"
LONGEST = 64
SHORT, LONG = "kind street", "paper " * 60


def document(base: Path, **changes: Any) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    del found["labels"], found["data"]["label"]
    found |= {"kind": "chat", "gate": {"metric": "log_likelihood"}, "split": {"seed": 1, "test": 20}}
    found["data"] |= {"answer": "answer", "rejected": "rejected"}
    found["prompt"] = {"max_tokens": LONGEST, "chat_template": TEMPLATE}
    found["train"] |= {"num_train_epochs": 1}
    found["evaluate"] |= {"max_new_tokens": 4, "samples": 2, "parity_rows": 4}
    return recipes._lay_over(found, changes)


def row(number: int, answer: str = SHORT, rejected: str = "") -> dict[str, Any]:
    return {"row": number, "text": f"was it number {number}", "answer": answer, "rejected": rejected}


def start(folder: Path, base: Path, parts: dict[str, list[dict[str, Any]]], **changes: Any) -> Run:
    """A run at `train` with these parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = tiny.start_at_train(folder, base, tiny.tweets(80), document(base, **changes), validation=10)
    for name, rows in parts.items():
        path = run.path(run.read(DatasetVersion).parts[name].path)  # type: ignore[index]
        path.unlink()
        pq.write_table(pa.Table.from_pylist(rows), path)
    return run


@pytest.fixture
def recipe(tiny_base: Path) -> Recipe:
    return recipes.resolve(document(tiny_base))


def test_no_row_is_longer_than_the_limit(recipe: Recipe, tiny_base: Path) -> None:
    tokens, lengths = Tokens(tiny_base), []
    for words in range(1, 70):
        for text in ("a", "table street " * 40):
            (made,) = examples_of(recipe, tokens, [{"text": text, "answer": "paper " * words}])
            if made is None:
                continue
            lengths.append(len(made.prompt) + len(made.answer))
            assert tokens.decode(made.answer).count("paper") == words and made.cut == (text != "a")
            assert text == "a" or len(made.prompt) >= LONGEST // chat.LEAST_TEXT - 2, "a long text keeps a fourth"
    assert len(lengths) > 80 and max(lengths) <= LONGEST


@pytest.mark.parametrize("long", [row(7, LONG), row(7, SHORT, LONG)], ids=["answer", "rejected"])
def test_a_long_answer_names_its_row(recipe: Recipe, tiny_base: Path, long: dict[str, Any]) -> None:
    message = r"tiny.yaml: prompt.max_tokens: an answer of \d+ tokens in row 7 leaves the text less than a fourth of 64"
    with pytest.raises(AnswerTooLong, match=message):
        chat.example(recipe, Tokens(tiny_base), long)
    assert [made is None for made in examples_of(recipe, Tokens(tiny_base), [row(1), long])] == [False, True]


def test_long_rows_are_left_out_of_training_and_test_and_counted(home: Path, tiny_base: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    train = [row(number, LONG if number % 6 == 0 else SHORT) for number in range(30)]
    test = [*(row(number, LONG if number == 3 else SHORT) for number in range(12)), row(20, SHORT, "rude"), row(21, SHORT, LONG)]
    validation = [row(50), row(51, LONG)]
    keys = {"train": {"eval_strategy": "epoch"}, "split": {"validation": 2}}
    run = start(home / "runs/tiny/long", tiny_base, {"train": train, "test": test, "validation": validation}, **keys)
    adapter = perform("train", run)
    assert isinstance(adapter, Adapter)
    assert (adapter.rows, adapter.left_out_rows, adapter.cut_rows) == (25, 5, 0)
    assert adapter.rows_file
    assert pq.read_table(run.path(adapter.rows_file))["row"].to_pylist() == [number for number in range(30) if number % 6]
    perform("merge", run)
    evaluation = perform("evaluate", run)
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.rows, evaluation.left_out_rows) == (12, 2)
    assert pq.read_table(run.path(evaluation.predictions))["row"].to_pylist() == [0, 1, 2, *range(4, 12), 20]
    assert "2 further test rows, whose answers leave the text too little room in 64 tokens" in run.path(evaluation.report).read_text()
    metrics = tracking.client().get_run(adapter.tracked.run_id).data.metrics
    assert (metrics["train.left_out_rows"], metrics["test.left_out_rows"]) == (5, 2)

    perform("register", run)
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    artifacts = Path(tracking.client().get_model_version_download_uri("tiny", "1").removeprefix("file://")) / "artifacts"
    theirs = recipes.read(artifacts / "recipe.yaml").model_dump(mode="json", by_alias=True)
    theirs["prompt"]["max_tokens"] = 24
    content = recipes.resolve(recipes._lay_over(theirs, {"evaluate": {"max_new_tokens": 2}})).dump()
    (artifacts / "recipe.yaml").unlink()
    (artifacts / "recipe.yaml").write_text(content, encoding="utf-8")
    test_part = run.path(run.read(DatasetVersion).parts["test"].path)
    test_part.unlink()
    pq.write_table(pa.Table.from_pylist([*test, row(30, "paper " * 20)]), test_part)
    again = perform("evaluate", run, 1)
    assert isinstance(again, Evaluation)
    assert again.rows == 13 and not again.verdict.passed
    assert "refused: no comparison with the champion, version 1: tiny.yaml: prompt.max_tokens: an answer of" in again.verdict.reasons[-1]
    assert "in row 30" in again.verdict.reasons[-1]


@pytest.mark.parametrize(("part", "message"), [("train", "none of 8 rows fits into 64 tokens"), ("test", "none of 8 test rows fits into")])
def test_a_part_without_a_row_that_fits_stops_the_run(home: Path, tiny_base: Path, part: str, message: str) -> None:
    rows = {"train": [row(number) for number in range(8)], "test": [row(number) for number in range(8)]}
    run = start(home / "runs/tiny/none", tiny_base, rows | {part: [row(number, LONG) for number in range(8)]})
    with pytest.raises(DataError, match=rf"{message}.* \(expected: room for answer and text\)\. Fix: raise prompt.max_tokens"):
        for step in ("train", "merge", "evaluate"):
            perform(step, run)
    assert run.has(MergedModel) == (part == "test")
