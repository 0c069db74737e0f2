"""The step `train`: what is learned, and what is left of it when the process dies."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Adapter, MergedModel
from tasks.errors import DataError, RecipeError, ServiceError
from tasks.kinds import label_scoring
from tasks.kinds.answers.generation import log_probabilities
from tasks.kinds.base import Example
from tasks.model.batches import IGNORED, collate
from tasks.model.load import dtype_of, load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.training.examples import sample_rows
from tasks.training.fit import with_adapter
from tasks.workspace.checkpoint_files import mark_whole, newest_whole
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.processes import apart, kill, step, until

pytestmark = pytest.mark.trains


def test_training_learns_the_labels_and_the_end_token(trained: Run, tiny_base: Path) -> None:
    import torch

    model = load_model(trained.path(trained.read(MergedModel).path), "float32")
    tokens, recipe = Tokens(tiny_base), trained.recipe
    rows = tiny.tweets(360)[-60:]
    said = label_scoring.respond(recipe, model, tokens, [text for text, _ in rows])
    right = [found == label for found, (_, label) in zip(said["label"], rows, strict=True)]
    assert sum(right) >= 57
    ends = 0
    for text, label in rows[:10]:
        example = label_scoring.example(recipe, tokens, {"text": text, "label": label})
        with torch.inference_mode():
            ends += int(model(torch.tensor([example.prompt + example.answer[:-1]])).logits[0, -1].argmax()) == tokens.eos_id
    assert ends == 10


def test_mlflow_shows_the_training_while_it_runs(trained: Run) -> None:
    adapter, client = trained.read(Adapter), tracking.client()
    found = client.get_run(adapter.tracked.run_id)
    assert {"train.loss", "train.learning_rate", "train.tokens_per_second", "train.memory_gib", "train.grad_norm"} <= set(
        found.data.metrics
    )
    history = client.get_metric_history(adapter.tracked.run_id, "train.loss")
    assert len(history) > 10 and history[-1].value < history[0].value / 2
    assert found.data.params["lora.r"] == "8" and found.data.params["data.version"] == "data/tiny/v1"
    assert found.data.tags[tracking.RUN_TAG] == "tiny/test" and found.info.status == "FINISHED"


def test_only_the_answer_and_its_end_carry_loss() -> None:
    features = [{"example": Example([2, 7, 8, 9], [5, 1], False)}, {"example": Example([2, 7], [6, 1], False)}]
    batch = collate(features, pad_id=0, loss_on="answer")
    assert batch["input_ids"].tolist() == [[2, 7, 8, 9, 5, 1], [0, 0, 2, 7, 6, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[5, 1], [6, 1]]
    assert batch["logits_to_keep"] == 3
    whole = collate(features, pad_id=0, loss_on="sequence")
    assert whole["labels"].tolist() == [[7, 8, 9, 5, 1], [IGNORED, IGNORED, 7, 6, 1]]
    assert whole["logits_to_keep"] == 6


def test_the_loss_is_the_stated_cross_entropy(tiny_document: dict[str, Any], tiny_base: Path) -> None:
    import math
    from types import SimpleNamespace

    import torch

    tokens = Tokens(tiny_base)
    recipe = recipes.resolve(tiny_document, overrides={"train.loss_on": "labels"})
    a, b, _ = label_scoring.label_ids(recipe, tokens)
    logits = torch.zeros(1, 3, 480)
    logits[0, 0, a], logits[0, 0, b], logits[0, 0, 300] = 2.0, 1.0, 50.0  # 300 is no label: it must not count
    outputs = SimpleNamespace(logits=logits)
    labels = torch.tensor([[a, tokens.eos_id]])
    at_label = -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(0)))
    at_end = math.log(480)
    assert label_scoring.loss(recipe, tokens)(outputs, labels).item() == pytest.approx((at_label + at_end) / 2, rel=1e-5)
    over_all = -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(50) + 477))
    plain = recipes.resolve(tiny_document, overrides={"train.loss_on": "answer"})
    assert label_scoring.loss(plain, tokens)(outputs, labels).item() == pytest.approx((over_all + at_end) / 2, rel=1e-5)


def test_the_reported_loss_is_the_mean_over_all_tokens_of_the_answers(home: Path, tiny_base: Path) -> None:
    rows, document = tiny.tweets(101), tiny.recipe_document(tiny_base, home / "none.csv")
    document["train"] |= {"max_steps": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 6}  # 41 rows: five of 8, and one
    run = tiny.start_at_train(home / "runs/tiny/first", tiny_base, rows, document)
    tokens = Tokens(tiny_base)
    examples = [label_scoring.example(run.recipe, tokens, {"text": text, "label": label}) for text, label in rows[:41]]
    said = log_probabilities(load_model(tiny_base, "float32"), tokens, examples, batch_size=8)  # an adapter begins with no effect
    expected = -said.sum() / sum(len(example.answer) for example in examples)
    found: Any = perform("train", run)
    assert found.final_loss == pytest.approx(expected, rel=1e-5)


def test_killed_training_resumes_and_ends_in_the_same_state(trained: Run, home: Path, tiny_base: Path) -> None:
    killed = tiny.start_at_train(home / "runs/tiny/killed", tiny_base, tiny.tweets(360))
    kept = killed.folder / "train" / "g0-kept"
    with step("train", killed) as process:
        until(lambda: newest_whole(kept), process)
        kill(process)
    assert not (killed.folder / "train.json").exists()
    assert [found.info.status for found in _tracked("tiny/killed")] == ["RUNNING"]
    again = perform("train", killed)
    assert again.resumed_from_step > 0
    assert not kept.exists() and [path.name for path in (killed.folder / "train").iterdir()] == ["g0-a2"]
    assert apart(trained, killed) < 1e-6
    lists = [run.path(run.read(Adapter).rows_file or "").read_bytes() for run in (trained, killed)]
    assert lists[0] == lists[1], "the killed one learned from the same rows"
    assert [found.info.status for found in _tracked("tiny/killed")] == ["FINISHED"]


def _tracked(run_id: str) -> list[Any]:
    """MLflow runs of a loraflow run."""
    client = tracking.client()
    experiment = client.get_experiment_by_name("tiny")
    return list(client.search_runs([experiment.experiment_id], f"tags.`{tracking.RUN_TAG}` = '{run_id}'"))


def test_done_step_returns_at_once_and_a_cleared_one_runs_again(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (trained.folder / "train.json").read_bytes()
    perform("train", trained)
    assert (trained.folder / "train.json").read_bytes() == before
    perform("train", Run(trained.folder), generation=1)
    assert (trained.folder / "train.json").read_bytes() != before
    assert trained.generation("train") == 1
    assert trained.generation("merge") is None, "merge was made of the earlier adapter"


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    for number in (10, 20):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"12345678")
        mark_whole(folder)
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-20"
    (tmp_path / "checkpoint-20" / "optimizer.pt").write_bytes(b"1234")
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / "checkpoint-30")
    (tmp_path / "checkpoint-30" / "whole.json").unlink()
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert newest_whole(tmp_path / "nowhere") is None


def test_a_bad_row_stops_the_run_with_its_number(home: Path, tiny_base: Path) -> None:
    rows = tiny.tweets(120)
    run = tiny.start_at_train(home / "runs/tiny/bad", tiny_base, [*rows[:9], ("a table", "odd"), *rows[9:]])
    with pytest.raises(DataError, match=r"^tiny: row 11: label is 'odd' \(expected: one of .*\)\. Fix: split again"):
        perform("train", run)


def test_a_target_that_is_no_layer_of_the_base_is_told(tiny_document: dict[str, Any], tiny_base: Path) -> None:
    recipe = recipes.resolve(tiny_document, overrides={"lora.target_modules": ["q_proj", "v_porj"]})
    with pytest.raises(
        RecipeError,
        match=r"tiny.yaml: lora.target_modules: 'v_porj' is no layer of this base model "
        r".expected: names of its layers",
    ):
        with_adapter(recipe, load_model(tiny_base, "float32"))


@pytest.mark.parametrize(("at", "where"), [(1, "step 1"), (8, "steps 6 to 10")])
def test_a_loss_that_is_no_number_stops_the_run(home: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, at: int, where: str) -> None:
    plain, calls = label_scoring.loss, iter(range(1, 100))

    def spoilt(recipe: Recipe, tokens: Tokens) -> Any:
        compute = plain(recipe, tokens)
        return lambda *given, **named: compute(*given, **named) * (float("nan") if next(calls) == at else 1)

    monkeypatch.setattr(label_scoring, "loss", spoilt)
    run = tiny.start_at_train(home / "runs/tiny/nan", tiny_base, tiny.tweets(180))  # logged at steps 1, 5, 10
    with pytest.raises(
        RecipeError, match=rf"train: {where}: the loss is nan \(expected: a finite number\)\. Fix: lower train.learning_rate"
    ):
        perform("train", run)
    client = tracking.client()
    (failed,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert failed.info.status == "FAILED"


def test_mlflow_out_of_reach_is_told_before_any_work(home: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = tiny.start_at_train(home / "runs/tiny/lost", tiny_base, tiny.tweets(120))
    with pytest.raises(ServiceError, match="no answer .* .*a tracking server.*Fix: start it, or mend LORAFLOW_MLFLOW_URI") as caught:
        perform("train", run)
    assert "secret" not in str(caught.value)


LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=60)


@given(labels=LABELS, share=st.floats(0.05, 1), seed=st.integers(0, 2**31 - 1))
def test_drawn_rows_keep_the_classes_shares(labels: list[str], share: float, seed: int) -> None:
    count = max(1, int(len(labels) * share))
    rows = sample_rows(labels, count, seed)
    assert len(rows) == count == len(set(rows))
    assert rows == sample_rows(labels, count, seed)
    whole, drawn = Counter(labels), Counter(labels[row] for row in rows)
    assert all(abs(drawn[label] - count * whole[label] / len(labels)) < 1 for label in whole)


def test_more_rows_than_there_are_is_an_error() -> None:
    with pytest.raises(
        DataError,
        match=r"train.rows: 5 rows asked for \(expected: at most the 2 of the training "
        r"part\)\. Fix: ask for fewer",
    ):
        sample_rows(["a", "b"], 5, 0)
    assert sorted(sample_rows(["a", "b"], None, 0)) == [0, 1]


def test_auto_looks_at_the_processor() -> None:
    import torch

    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not torch.cuda.is_available():
        assert dtype_of("auto") == (torch.bfloat16 if fast else torch.float32)
    assert dtype_of("float16") == torch.float16
