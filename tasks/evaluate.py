"""Score the merged model on the test part, beside the base model, the majority class and the present champion.

Reads   Download, DatasetVersion, Adapter, MergedModel     runs/<id>/download.json, version.json, train.json, merge.json
Uses    prompt.*, labels.*, evaluate.*, gate.*             of the recipe
Writes  Evaluation                                         runs/<id>/evaluate.json
"""

import gc
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import evaluation_report, gate, tracking
from tasks.champion import champion_version, version_model, version_recipe
from tasks.contracts import Adapter, DatasetVersion, Download, Evaluation, MergedModel, Parity, Part, Scores, TrackedRun
from tasks.errors import ContractError, DataError, RecipeError
from tasks.intervals import bootstrap
from tasks.kinds import kind_of
from tasks.models import load_adapter, load_model
from tasks.progress import Progress
from tasks.schema import Recipe
from tasks.tokens import Tokens
from tasks.workspace import Run

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray

PARITY_SEED = 0
"""Which test rows the parity check draws."""


@dataclass(frozen=True)
class Rows:
    """The test part, its columns side by side."""

    numbers: list[int]
    texts: list[str]
    truth: list[str]

    def some(self, chosen: list[int]) -> "Rows":
        """The rows at these places."""
        return Rows([self.numbers[i] for i in chosen], [self.texts[i] for i in chosen], [self.truth[i] for i in chosen])


def evaluate(run: Run) -> Evaluation:
    """Score the merged model as a user loads it, compare it with base model, majority class and champion, and ask the gate."""
    with tracking.tracked(run) as tracked:
        return _evaluate(run, tracked)


def _evaluate(run: Run, tracked: TrackedRun) -> Evaluation:
    recipe, dtype = run.recipe, run.recipe.base_model.dtype
    base, merged, adapter = run.read(Download).base_model, run.read(MergedModel), run.read(Adapter)
    version = run.read(DatasetVersion)
    rows = _test_rows(recipe, run.path(version.parts["test"].path))
    client = tracking.client()

    tuned_folder, base_folder = run.path(merged.path), run.path(base.path)
    scores = {"tuned": _score(run, "tuned model", recipe, partial(load_model, tuned_folder, dtype), tuned_folder, rows)}
    with_adapter = partial(load_adapter, base_folder, run.path(adapter.path), dtype)
    parity = _check_parity(run, with_adapter, base_folder, rows, scores["tuned"])
    scores["base"] = _score(run, "base model", recipe, partial(load_model, base_folder, dtype), base_folder, rows)
    rival, champion_scores = _score_champion(run, client, rows)
    if champion_scores is not None:
        scores["champion"] = champion_scores

    measured = {
        name: _measure(recipe, rows, found) for name, found in {**scores, "majority": _majority(recipe, version.parts, rows)}.items()
    }
    if rival is not None and champion_scores is not None:
        rival = gate.Rival(rival.version, measured["champion"])
    evidence = gate.Evidence(measured["tuned"], measured["base"], measured["majority"], parity, rival)
    figures = kind_of(recipe).figures(recipe, rows.truth, scores, run.attempt)
    evaluation = Evaluation(
        rows=len(rows.truth),
        tuned=evidence.tuned,
        base=evidence.base,
        majority=evidence.majority,
        champion=measured.get("champion"),
        champion_version=rival.version if rival else None,
        parity=parity,
        verdict=gate.verdict(recipe.gate, evidence),
        predictions=run.relative(_write_predictions(run, rows, scores)),
        figures={title: run.relative(run.attempt / name) for title, name in figures.items()},
        report=run.relative(run.attempt / "report.html"),
    )
    tokens, example = _tokens(tuned_folder), kind_of(recipe).example
    cut = sum(example(recipe, tokens, text, label).cut for text, label in zip(rows.texts, rows.truth, strict=True))
    evaluation_report.write(run, evaluation, version, base, cut_rows=cut)
    _log(client, tracked.run_id, run, evaluation, measured)
    return evaluation


def _test_rows(recipe: Recipe, path: Path) -> Rows:
    """The test part.

    Raises:
        DataError: a row's text is empty or its label unknown, or a class has no row.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["row", "text", "label"])
    rows = Rows(table["row"].to_pylist(), table["text"].to_pylist(), table["label"].to_pylist())
    for number, text, label in zip(rows.numbers, rows.texts, rows.truth, strict=True):
        if label not in recipe.labels.names:
            raise DataError(f"{path}: row {number}", f"label {label!r:.60}", f"one of {list(recipe.labels.names)} expected", "split again")
        if not text.strip():
            raise DataError(f"{path}: row {number}", "the text is empty", "a text expected", "add an expectation that rejects such rows")
    if missing := [name for name in recipe.labels.names if name not in rows.truth]:
        raise DataError(str(path), f"{len(rows.truth)} rows, none of them {missing[0]!r}", "every class expected", "raise split.test")
    return rows


def _score(run: Run, what: str, recipe: Recipe, load: Callable[[], Any], tokenizer: Path, rows: Rows) -> "NDArray[np.float64]":
    """A model's scores of the rows, (n_rows, n_labels); the model is gone from memory afterwards.

    Raises:
        ContractError: the model does not load, or its scores are not finite.
    """
    import numpy as np

    tokens, model = _tokens(tokenizer), load()
    with Progress(run, "evaluate", f"scoring the {what}", len(rows.texts), "rows") as progress:
        scores = kind_of(recipe).predict(recipe, model, tokens, rows.texts, progress.advance)
    del model
    _free_memory()
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        found = f"scores of {len(broken)} of {len(rows.texts)} rows are not finite, row {rows.numbers[broken[0]]} first"
        raise ContractError(f"evaluate: {what}", found, "numbers expected", "lower train.learning_rate, or set base_model.dtype: float32")
    return scores


def _check_parity(run: Run, load: Callable[[], Any], base: Path, rows: Rows, tuned: "NDArray[np.float64]") -> Parity:
    """Score sampled rows with the adapter on the unquantised base, and compare with the merged model's scores of them.

    Args:
        run: whose recipe says how many rows.
        load: gives the base model with the adapter.
        base: folder of the base model's tokenizer.
        rows: the test part.
        tuned: (n_rows, n_labels), the merged model's scores.
    """
    import numpy as np

    recipe, kind = run.recipe, kind_of(run.recipe)
    count = min(recipe.evaluate.parity_rows, len(rows.texts))
    chosen = sorted(random.Random(PARITY_SEED).sample(range(len(rows.texts)), count))  # noqa: S311 - a sample, no secret
    adapted = _score(run, "adapter on its base", recipe, load, base, rows.some(chosen))
    pairs = zip(kind.labels_of(recipe, adapted), kind.labels_of(recipe, tuned[chosen]), strict=True)
    same = sum(left == right for left, right in pairs)
    return Parity(rows=count, same_labels=same, largest_difference=float(np.abs(adapted - tuned[chosen]).max()))


def _score_champion(run: Run, client: "MlflowClient", rows: Rows) -> "tuple[gate.Rival | None, NDArray[np.float64] | None]":
    """The present champion and its scores of the same rows, by the prompt of its own recipe.

    A champion that cannot be scored (other labels, files gone) is no fault of this run: the gate is told, and refuses.
    """
    recipe = run.recipe
    number = champion_version(client, recipe.name)
    if number is None:
        return None, None
    with tempfile.TemporaryDirectory(dir=run.attempt) as folder:
        try:
            theirs = version_recipe(recipe.name, number, Path(folder))
            if theirs.kind != recipe.kind or set(theirs.labels.names) != set(recipe.labels.names):
                found = f"it tells {list(theirs.labels.names)} apart, {list(recipe.labels.names)} expected"
                return gate.Rival(number, None, found), None
            model = version_model(recipe.name, number, Path(folder))
            scores = _score(run, f"champion, version {number}", theirs, partial(load_model, model, theirs.base_model.dtype), model, rows)
        except (ContractError, RecipeError) as error:
            return gate.Rival(number, None, str(error)), None
    columns = [theirs.labels.names.index(name) for name in recipe.labels.names]
    return gate.Rival(number, None), scores[:, columns]


def _majority(recipe: Recipe, parts: "Mapping[Any, Part]", rows: Rows) -> "NDArray[np.float64]":
    """Scores of a model that always says the training part's most frequent class, (n_rows, n_labels).

    A balanced training part has none; then the validation part, which keeps the natural shares, decides.
    """
    import numpy as np

    def frequency(name: str) -> tuple[int, ...]:
        return tuple(parts[part].labels.get(name, 0) for part in ("train", "validation") if part in parts)

    scores = np.zeros((len(rows.truth), len(recipe.labels.names)))
    scores[:, recipe.labels.names.index(max(recipe.labels.names, key=frequency))] = 1
    return scores


def _measure(recipe: Recipe, rows: Rows, scores: "NDArray[np.float64]") -> Scores:
    """The kind's metrics with their bootstrap intervals."""
    kind = kind_of(recipe)

    def of_draw(draw: "NDArray[np.intp]") -> dict[str, float]:
        return kind.metrics(recipe, [rows.truth[i] for i in draw], scores[draw])

    return bootstrap(of_draw, len(rows.truth), resamples=recipe.evaluate.resamples, confidence=recipe.evaluate.confidence)


def _tokens(folder: Path) -> Tokens:
    try:
        tokens = Tokens(folder)
        tokens.encode("a")
    except Exception as error:  # the library raises a bare Exception for a file that it cannot read
        detail = " ".join(str(error).split())[:200]
        raise ContractError(str(folder), f"no usable tokenizer ({detail})", "the model's own expected", "fetch or merge it again") from None
    return tokens


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write_predictions(run: Run, rows: Rows, scores: "Mapping[str, NDArray[np.float64]]") -> Path:
    """Parquet: row, truth, and for each model `<model>.label` and `<model>.score.<label>`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    recipe, path = run.recipe, run.attempt / "predictions.parquet"
    columns: dict[str, Any] = {"row": rows.numbers, "truth": rows.truth}
    for model, found in scores.items():
        columns[f"{model}.label"] = kind_of(recipe).labels_of(recipe, found)
        for index, name in enumerate(recipe.labels.names):
            columns[f"{model}.score.{name}"] = found[:, index]
    pq.write_table(pa.table(columns), path)
    return path


def _log(client: "MlflowClient", run_id: str, run: Run, evaluation: Evaluation, measured: Mapping[str, Scores]) -> None:
    """Metrics `<model>.<metric>` with `.low` and `.high`, and the files under `evaluation/`, in the MLflow run."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    values = {"parity.same_labels": float(evaluation.parity.same_labels), "parity.largest_difference": evaluation.parity.largest_difference}
    for model, scores in measured.items():
        for name, found in scores.items():
            values |= {f"{model}.{name}": found.value, f"{model}.{name}.low": found.low, f"{model}.{name}.high": found.high}
    with tracking.answering("evaluate"):
        client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])
        for path in (evaluation.predictions, evaluation.report, *evaluation.figures.values()):
            client.log_artifact(run_id, str(run.path(path)), "evaluation")
