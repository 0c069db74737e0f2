"""`train/rows.parquet`: which rows of the data set a version learned from, and how often."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contracts import Adapter, DatasetVersion
from tasks.kinds import label_scoring
from tasks.kinds.base import Example
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.training.examples import TrainingRows, sample_rows, training_rows
from tasks.training.fit import kept_step
from tasks.training.trainer import TrainingLoop
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains


def table(path: Path) -> list[tuple[Any, ...]]:
    """(file, row, cut, times, passes) of each line."""
    found = pq.read_table(path)
    return list(zip(*(found[name].to_pylist() for name in ("file", "row", "cut", "times", "passes")), strict=True))


def test_a_line_for_each_row_of_the_data_set_whatever_the_order(tmp_path: Path) -> None:
    whole, cut = Example([1], [2], False), Example([1], [2], True)
    rows = [("test", 2, cut, 3), ("data", 9, whole, 2), ("data", 2, whole, 2), ("data", 9, whole, 3), ("data", 10, cut, 0)]

    def write(order: Sequence[tuple[Any, ...]], name: str) -> Path:
        made = TrainingRows([example for _, _, example, _ in order], [(file, row) for file, row, _, _ in order], 7)
        made.write(tmp_path / name, [passes for *_, passes in order])
        return tmp_path / name

    first = write(rows, "a.parquet")
    assert table(first) == [
        ("data", 2, False, 1, 2), ("data", 9, False, 2, 5), ("data", 10, True, 1, 0), ("test", 2, True, 1, 3),
    ]  # fmt: skip
    assert write(rows[::-1], "b.parquet").read_bytes() == first.read_bytes()


def test_rows_are_known_by_file_and_line(tiny_base: Path, tiny_document: dict[str, Any], tmp_path: Path) -> None:
    texts = [text for text, _ in tiny.tweets(6)]
    texts[4] = " ".join(texts) * 20
    columns = {"row": [2, 3, 2, 3, 4, 3], "file": ["data", "data", "test", "test", "data", "data"], "text": texts}
    pq.write_table(pa.table(columns | {"label": ["negative", "neutral"] * 3}), tmp_path / "train.parquet")
    recipe, tokens = recipes.resolve(tiny_document), Tokens(tiny_base)
    drawn = training_rows(recipe, tokens, tmp_path / "train.parquet")
    assert Counter(drawn.origins) == {("data", 2): 1, ("data", 3): 2, ("test", 2): 1, ("test", 3): 1, ("data", 4): 1}
    assert [origin for origin, example in zip(drawn.origins, drawn.examples, strict=True) if example.cut] == [("data", 4)]


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_list_is_what_the_training_passed_over(home: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    document = tiny.recipe_document(tiny_base, home / "none.csv")
    document["train"] |= {
        "rows": 20, "max_steps": 5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "train_sampling_strategy": strategy,
    }  # fmt: skip
    run = tiny.start_at_train(home / "runs/tiny/few", tiny_base, tiny.tweets(120), document)
    seen: Counter[tuple[int, ...]] = Counter()
    plain = TrainingLoop.training_step

    def spy(self: Any, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
            seen[tuple(one for one, counts in zip(ids, mask, strict=True) if counts)] += 1
        return plain(self, model, inputs, *given, **named)

    monkeypatch.setattr(TrainingLoop, "training_step", spy)
    adapter = perform("train", run)
    assert isinstance(adapter, Adapter) and adapter.rows_file == "train/g0-a1/rows.parquet"
    part = pq.read_table(run.path(run.read(DatasetVersion).parts["train"].path)).to_pylist()
    tokens, passes = Tokens(tiny_base), Counter[int]()
    for row in part:
        example = label_scoring.example(run.recipe, tokens, row)
        passes[row["row"]] = seen[tuple(example.prompt + example.answer)]
    found = table(run.path(adapter.rows_file))
    assert {row for _, row, *_ in found} == {part[index]["row"] for index in sample_rows([row["label"] for row in part], 20, 3)}
    assert {row: count for _, row, _, _, count in found} == {
        row: count for row, count in passes.items() if row in {row for _, row, *_ in found}
    }
    # 20 rows, 8 a step: an epoch of 3 steps, and 2 steps more
    assert sum(seen.values()) == sum(passes.values()) == 20 + 16 and {count for *_, count in found} == {1, 2}
    assert {(file, cut, times) for file, _, cut, times, _ in found} == {("data", False, 1)}


def test_the_step_whose_weights_are_kept() -> None:
    assert kept_step(SimpleNamespace(global_step=30, best_global_step=None, best_model_checkpoint=None)) == 30
    assert kept_step(SimpleNamespace(global_step=30, best_global_step=20, best_model_checkpoint="x/checkpoint-20")) == 20


def test_the_list_of_a_version_is_in_mlflow(trained: Run, tmp_path: Path) -> None:
    adapter = trained.read(Adapter)
    assert adapter.rows_file
    path = trained.path(adapter.rows_file)
    assert table(path) == [("data", row, False, 1, 3) for row in range(2, 302)]
    found = tracking.client().download_artifacts(adapter.tracked.run_id, "train/rows.parquet", str(tmp_path))
    assert Path(found).read_bytes() == path.read_bytes()
