"""The step `evaluate`: what is scored, what it is compared with, what is written."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Adapter, DatasetVersion, Download, Evaluation, MergedModel, Part, Score
from tasks.errors import ContractError, DataError, ServiceError
from tasks.kinds import label_scoring
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.workspace.perform import perform
from tasks.workspace.progress import read_position
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains


def do(run: Run, generation: int = 0) -> Evaluation:
    found = perform("evaluate", run, generation)
    assert isinstance(found, Evaluation)
    return found


def table(run: Run, evaluation: Evaluation) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    return dict(pq.read_table(run.path(evaluation.predictions)).to_pydict())


def change(run: Run, **keys: Any) -> None:
    """Another recipe for the run: section__key=value."""
    document = recipes.read(run.folder / "recipe.yaml").model_dump(mode="json", by_alias=True)
    for key, value in keys.items():
        section, _, name = key.partition("__")
        document[section][name] = value
    (run.folder / "recipe.yaml").unlink()
    (run.folder / "recipe.yaml").write_text(recipes.resolve(document).dump(), encoding="utf-8")
    run.__dict__.pop("recipe", None)


def replace_file(path: Path, content: bytes) -> None:
    """Other bytes in place of a file, which may be a hard link to what other tests read."""
    path.unlink()
    path.write_bytes(content)


def set_part(run: Run, rows: list[tuple[str, str]], **labels: dict[str, int]) -> None:
    """Another test part, and other label counts in the manifest."""
    version = run.read(DatasetVersion)
    (run.folder / "parts/test.parquet").unlink()
    parts = {**version.parts, "test": tiny.write_part(run, "test", rows)}
    for name, counts in labels.items():
        parts[name] = Part("none", sum(counts.values()), counts)  # type: ignore[index]
    run.write(replace(version, parts=parts))


def test_the_tuned_model_is_measured_beside_base_and_majority(trained: Run) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    found = do(trained)
    assert found.rows == 60 and trained.read(Evaluation) == found
    assert set(found.tuned) == set(found.base) == set(found.majority) == {"macro_f1", "accuracy", "roc_auc"}
    assert found.tuned["macro_f1"].value > 0.9 > 0.6 > found.base["macro_f1"].value
    assert found.champion is None and found.champion_version is None
    # 20 test rows of each class; always one of them: accuracy 1/3, f1 of that class 2 * 20 / (20 + 60)
    assert found.majority["accuracy"].value == pytest.approx(1 / 3) and found.majority["macro_f1"].value == pytest.approx(0.5 / 3)
    assert found.majority["roc_auc"] == Score(0.5, 0.5, 0.5)
    assert (found.parity.rows, found.parity.same_labels) == (16, 16) and found.parity.largest_difference < 1e-3
    assert found.verdict.passed and found.verdict.reasons[0].startswith("macro_f1 ") and len(found.verdict.reasons) == 5
    for scores in (found.tuned, found.base):
        assert all(0 <= score.low <= score.value <= score.high <= 1 for score in scores.values())
    rows = table(trained, found)
    assert rows["row"] == list(range(2, 62)) and rows["truth.label"] == [label for _, label in tiny.tweets(360)[-60:]]
    for model, scores in (("tuned", found.tuned), ("base", found.base)):
        given = np.array([rows[f"{model}.score_{name}"] for name in trained.recipe.labels.names]).T
        np.testing.assert_allclose(given.sum(axis=1), 1)
        assert [trained.recipe.labels.names[i] for i in given.argmax(axis=1)] == rows[f"{model}.label"]
        assert accuracy_score(rows["truth.label"], rows[f"{model}.label"]) == pytest.approx(scores["accuracy"].value)
        assert f1_score(rows["truth.label"], rows[f"{model}.label"], average="macro") == pytest.approx(scores["macro_f1"].value)
    position = read_position(trained)
    assert position and (position.step, position.done, position.total, position.unit) == ("evaluate", 60, 60, "rows")


def test_mlflow_holds_metrics_pictures_predictions_and_report(trained: Run) -> None:
    found, client = do(trained), tracking.client()
    experiment = client.get_experiment_by_name("tiny")
    (tracked,) = client.search_runs([experiment.experiment_id], f"tags.`{tracking.RUN_TAG}` = '{trained.id}'")
    assert tracked.info.status == "FINISHED"
    metrics = tracked.data.metrics
    for model in ("tuned", "base", "majority"):
        for name, score in getattr(found, model).items():
            assert metrics[f"{model}.{name}"] == score.value
            assert (metrics[f"{model}.{name}.low"], metrics[f"{model}.{name}.high"]) == (score.low, score.high)
    assert metrics["parity.same_labels"] == 16 and metrics["parity.largest_difference"] == found.parity.largest_difference
    losses = tracking.history(trained.read(Adapter).tracked, "train.loss")
    assert list(losses) == [1, *range(5, trained.read(Adapter).steps + 1, 5)] and losses[1] > 2 * list(losses.values())[-1]
    files = {Path(file.path).name for file in client.list_artifacts(tracked.info.run_id, "evaluation")}
    assert files == {"learning.png", "confusion.png", "roc.png", "precision_recall.png", "predictions.parquet", "report.html"}


def test_the_report_reads_offline_and_shows_no_text(trained: Run) -> None:
    change(trained, gate__floors={"macro_f1": 0.5, "roc_auc": 0.999999})
    set_part(trained, [*tiny.tweets(360)[-60:], ("table street number paper " * 50, "neutral")])
    found = do(trained)
    page = trained.path(found.report).read_text(encoding="utf-8")
    for place in re.findall(r"""(?:src|href)=["']?([^"' >]+)|url\(([^)]*)""", page):
        assert "".join(place).startswith("data:image/png;base64,")
    assert page.count("data:image/png;base64,") == 4 and "<script" not in page
    for text, _ in tiny.tweets(360)[-60:]:
        assert text not in page
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for score in (*found.tuned.values(), *found.base.values(), *found.majority.values()):
        assert f"{score.value:.3f} {score.low:.3f} to {score.high:.3f}" in words
    for line in found.verdict.reasons:
        assert line.removeprefix("refused: ").replace("<", "&lt;").replace(">", "&gt;") in words
    assert "Same label on 16 of 16 sampled rows" in words and "1 of 61 did not fit into 64 tokens" in words
    assert "data/tiny/v1" in words and f"{'0' * 32}.dir" in words and trained.recipe.sha256()[:16] in words
    assert ("The gate lets it pass" in words) == found.verdict.passed


def test_what_is_scored_is_the_merged_model_on_disk(trained: Run) -> None:
    # A merge that lost the adapter: the merged folder holds the base's weights. The adapter says otherwise, so parity breaks.
    base = trained.path(trained.read(Download).base_model.path)
    merged = trained.path(trained.read(MergedModel).path)
    replace_file(merged / "model.safetensors", (base / "model.safetensors").read_bytes())
    found = do(trained)
    assert found.tuned == found.base
    assert found.parity.same_labels < found.parity.rows and found.parity.largest_difference > 0.1
    assert not found.verdict.passed
    broken = [line for line in found.verdict.reasons if line.startswith("refused: ")]
    assert any("merged model and adapter: the same on" in line for line in broken)
    assert any("(base model)" in line for line in broken)
    assert trained.has(Evaluation), "the gate's no is a result, not a failure"


def champion(run: Run) -> Path:
    """Register this run's merged model, make it the champion; the folder of its artifacts."""
    perform("register", run)
    client = tracking.client()
    client.set_registered_model_alias("tiny", "champion", "1")
    return Path(client.get_model_version_download_uri("tiny", "1").removeprefix("file://")) / "artifacts"


def edit_recipe(artifacts: Path, **changes: Any) -> Recipe:
    document = recipes.read(artifacts / "recipe.yaml").model_dump(mode="json", by_alias=True)
    recipe = recipes.resolve({**document, **changes})
    replace_file(artifacts / "recipe.yaml", recipe.dump().encode())
    return recipe


def test_the_champion_is_scored_on_the_same_rows_by_its_own_recipe(trained: Run) -> None:
    first = do(trained)
    artifacts = champion(trained)
    again = do(trained, generation=1)
    assert again.champion_version == 1 and again.champion == again.tuned == first.tuned
    assert again.verdict.passed and again.verdict.reasons[-1].endswith("(champion, version 1)")
    value = again.tuned["macro_f1"].value
    assert again.verdict.reasons[-1].startswith(f"macro_f1 {value:.3f} >= {value:.3f}")

    # another prompt, and the labels in another order: its own prompt counts, and its columns are put into this run's order
    theirs = edit_recipe(
        artifacts,
        prompt={"template": "was it {text}", "answer": " {label}", "max_tokens": 32},
        labels={"names": ["positive", "negative", "neutral"]},
    )
    rows = table(trained, do(trained, generation=2))
    model, tokens = load_model(artifacts / "model", "float32"), Tokens(artifacts / "model")
    expected = label_scoring.respond(theirs, model, tokens, [text for text, _ in tiny.tweets(360)[-60:]])
    for name in theirs.labels.names:
        np.testing.assert_allclose(rows[f"champion.score_{name}"], expected[f"score_{name}"], atol=1e-6)
    assert not np.allclose(rows["champion.score_positive"], rows["tuned.score_positive"], atol=1e-3)


def test_a_champion_that_cannot_be_compared_refuses_and_stops_nothing(trained: Run) -> None:
    do(trained)
    artifacts = champion(trained)
    edit_recipe(artifacts, labels={"names": ["Positive", "Negative"], "positive": "Negative"})
    found = do(trained, generation=1)
    assert not found.verdict.passed and found.champion is None and found.champion_version == 1
    assert found.verdict.reasons[-1] == (
        "refused: no comparison with the champion, version 1: "
        "it tells ['Positive', 'Negative'] apart (expected: ['negative', 'neutral', 'positive'])"
    )
    (artifacts / "recipe.yaml").unlink()
    found = do(trained, generation=2)
    assert not found.verdict.passed
    assert found.verdict.reasons[-1].endswith(
        "models:/tiny/1: no artifacts/recipe.yaml (expected: a version that `register` made). Fix: register it again"
    )


def test_a_balanced_training_part_leaves_the_majority_to_validation(trained: Run) -> None:
    rows = [*tiny.tweets(360)[-60:], ("a new table", "neutral")]  # neutral: 21 of 61
    equal = dict.fromkeys(("negative", "neutral", "positive"), 100)
    set_part(trained, rows, train=equal, validation={"negative": 5, "neutral": 9, "positive": 4})
    assert do(trained).majority["accuracy"].value == pytest.approx(21 / 61)
    set_part(trained, rows, train={**equal, "positive": 101}, validation={"negative": 5, "neutral": 9, "positive": 4})
    assert do(trained).majority["accuracy"].value == pytest.approx(20 / 61)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("a", "negative"), ("b", "positive")],
            r"test.parquet: 2 rows, none of them 'neutral' \(expected: every class\)\. Fix: raise split.test",
        ),
        (
            [("a", "negative"), ("b", "angry")],
            r"test.parquet: row 3: label 'angry' \(expected: one of \['negative', 'neutral', 'positive'\]\)",
        ),
        ([("a", "negative"), (" ", "neutral")], r"test.parquet: row 3: the text is empty \(expected: a text\)\. Fix: add an expectation"),
    ],
)
def test_a_test_part_that_cannot_be_scored(trained: Run, rows: list[tuple[str, str]], message: str) -> None:
    set_part(trained, rows)
    with pytest.raises(DataError, match=message):
        do(trained)
    assert not trained.has(Evaluation)


def test_scores_that_are_no_numbers_name_the_row(trained: Run) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = trained.path(trained.read(MergedModel).path) / "model.safetensors"
    broken = {name: torch.full_like(value, float("nan")) if "norm" in name else value for name, value in load_file(weights).items()}
    weights.unlink()
    save_file(broken, weights, metadata={"format": "pt"})
    message = (
        r"evaluate: tuned model: scores of 60 of 60 rows are not finite, row 2 first \(expected: numbers\)\. Fix: lower train.learning_rate"
    )
    with pytest.raises(ContractError, match=message):
        do(trained)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", r"no loadable model .* \(expected: config and safetensors\)\. Fix: fetch or merge it again"),
        ("config.json", r"no (loadable model|usable tokenizer) \(.*config.*Fix: fetch or merge it again"),
        ("tokenizer.json", r"no usable tokenizer .* \(expected: the model's own\)\. Fix: fetch or merge it again"),
    ],
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_broken_model_folder(trained: Run, name: str, message: str, cut: bool) -> None:
    file = trained.path(trained.read(MergedModel).path) / name
    replace_file(file, file.read_bytes()[: file.stat().st_size // 2]) if cut else file.unlink()
    with pytest.raises(ContractError, match=message):
        do(trained)


def test_without_mlflow_no_row_is_scored(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://127.0.0.1:9")
    (trained.folder / "progress.json").unlink(missing_ok=True)
    with pytest.raises(ServiceError, match=r"no answer .* \(expected: a tracking server\)"):
        do(trained)
    assert read_position(trained) is None


def test_the_verdict_survives_the_manifest(trained: Run) -> None:
    change(trained, gate__floors={"accuracy": 1.01}, gate__beats_base=False)
    found = do(trained)
    written = json.loads((trained.folder / "evaluate.json").read_text(encoding="utf-8"))["output"]["verdict"]
    assert written["passed"] is found.verdict.passed is False
    assert written["reasons"][0].startswith("refused: accuracy ") and written["reasons"][0].endswith(" < 1.010 (floor)")
    assert len(written["reasons"]) == 3
