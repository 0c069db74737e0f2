"""Score the merged model on the test part, beside the base model, the majority class and the present champion.

Reads   Download, DatasetVersion, Adapter, MergedModel     runs/<id>/download.json, version.json, train.json, merge.json
Uses    prompt.*, labels.*, evaluate.*, gate.*             of the recipe
Writes  Evaluation                                         runs/<id>/evaluate.json
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import Adapter, DatasetVersion, Download, Evaluation, MergedModel, Parity, Part, Scores, TrackedRun
from tasks.errors import ContractError, RecipeError
from tasks.evaluation import gate, parity, report, scoring
from tasks.evaluation.scoring import Rows
from tasks.evaluation.tokenizers import Tokenizers
from tasks.kinds.base import AnswerTooLong, Columns, classes_of, kind_of, place_of, words
from tasks.metrics import plots
from tasks.model import memory
from tasks.model.halving import halved, within_memory
from tasks.model.load import load_adapter, load_model
from tasks.model.new_tokens import NewRows, new_rows
from tasks.model.padding import check_padding
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.registry.champion import champion_version, version_model, version_recipe
from tasks.schema.recipe import Recipe
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Candidate:
    """A model that is put to the test part."""

    what: str
    """Its name for progress and messages."""
    recipe: Recipe
    """How it is asked."""
    tokens: Tokens
    load: Callable[[], Any]


def evaluate(run: Run) -> Evaluation:
    """Score the merged model as a user loads it, compare it with base model, majority class and champion, and ask the gate."""
    with tracking.tracked(run) as tracked:
        return within_memory(run, run.recipe, "evaluate", partial(_evaluate, run, tracked))


def _evaluate(run: Run, tracked: TrackedRun) -> Evaluation:
    recipe, dtype = run.recipe, run.recipe.base_model.dtype
    base, merged, adapter = run.read(Download).base_model, run.read(MergedModel), run.read(Adapter)
    version = run.read(DatasetVersion)
    rows = scoring.read_rows(recipe, run.path(version.parts["test"].path))
    client = tracking.client()

    tuned_folder, base_folder, classes = run.path(merged.path), run.path(base.path), classes_of(recipe)
    tokenizers, added, drawn = Tokenizers(), recipe.prompt.new_tokens, new_rows(recipe, base_folder)
    tuned = Candidate("tuned model", recipe, tokenizers.of(tuned_folder, added), partial(load_model, tuned_folder, dtype, classes))
    rows, cut_rows, left_out_rows = scoring.fitting(recipe, tuned.tokens, rows)
    columns = {"tuned": _assess(run, tuned, rows)}
    with_adapter = partial(load_adapter, base_folder, run.path(adapter.path), dtype, classes, drawn)
    adapted = Candidate("adapter on its base", recipe, tokenizers.of(base_folder, added), with_adapter)
    same = _compare(run, adapted, rows, columns["tuned"], parity.TOLERANCE)
    quantized = None
    if choice := recipe.base_model.quantization:
        packed = replace(adapted, what="adapter on its quantised base", load=partial(with_adapter, quantization=choice))
        quantized = _compare(run, packed, rows, columns["tuned"], parity.QUANTIZED_TOLERANCE)
    columns["base"] = _assess(run, replace(adapted, what="base model", load=partial(_load_base, recipe, base_folder, drawn)), rows)
    rival, champion_columns = _assess_champion(run, client, tokenizers, rows)
    if champion_columns is not None:
        columns["champion"] = champion_columns

    measured = {name: scoring.measure(recipe, rows, found) for name, found in columns.items()}
    always = _majority(recipe, version.parts, rows)
    if always is not None:
        measured["majority"] = scoring.measure(recipe, rows, always)
    if rival is not None and champion_columns is not None:
        rival = gate.Champion(rival.version, measured["champion"])
    evidence = gate.Evidence(measured["tuned"], measured["base"], measured.get("majority"), same, rival, quantized)
    figures = _learning_curve(run, tracked) | kind_of(recipe).figures(recipe, rows, columns, run.attempt)
    evaluation = Evaluation(
        rows=len(rows),
        tuned=evidence.tuned,
        base=evidence.base,
        majority=evidence.majority,
        champion=measured.get("champion"),
        champion_version=rival.version if rival else None,
        parity=same,
        verdict=gate.verdict(recipe.gate, evidence),
        predictions=run.relative(_write_predictions(run, rows, columns)),
        figures={title: run.relative(run.attempt / name) for title, name in figures.items()},
        report=run.relative(run.attempt / "report.html"),
        left_out_rows=left_out_rows,
        quantized=quantized,
    )
    report.write(run, evaluation, cut_rows=cut_rows, replies=_replies(rows, columns))
    _log(client, tracked, run, evaluation, measured)
    return evaluation


def _learning_curve(run: Run, tracked: TrackedRun) -> dict[str, str]:
    """Draw the training's losses as MLflow has them; title to file name."""
    losses = {"training": tracking.history(tracked, "train.loss"), "validation": tracking.history(tracked, "validation.loss")}
    drawn = {"Learning curve": "learning.png"}
    plots.draw_learning(run.attempt / drawn["Learning curve"], {part: found for part, found in losses.items() if found})
    return drawn


def _load_base(recipe: Recipe, folder: Path, drawn: NewRows | None) -> Any:
    """The base model; a head that it lacks is the one that the training began with."""
    from transformers import set_seed

    set_seed(recipe.train.seed)
    return load_model(folder, recipe.base_model.dtype, classes_of(recipe), rows=drawn)


def _assess(run: Run, candidate: Candidate, rows: Rows, *, sampled: bool = True) -> Columns:
    """What a model makes of the rows, and where sampled what it writes freely; it is gone from memory afterwards.

    Raises:
        ContractError: the model does not load, or what it says is not finite.
        RecipeError: it cannot read rows in batches.
    """
    recipe, what, tokens = halved(candidate.recipe, run.halvings("evaluate")), candidate.what, candidate.tokens
    model = candidate.load()
    check_padding(recipe, model, tokens)
    with Progress(run, "evaluate", f"scoring the {what}", len(rows), "rows") as progress:
        columns = scoring.predict(recipe, model, tokens, rows, f"evaluate: {what}", progress.advance)
    if sampled and (count := scoring.sample_count(recipe, rows)):
        with Progress(run, "evaluate", f"answers of the {what}", count, "rows") as progress:
            columns |= scoring.generate_samples(recipe, model, tokens, rows, progress.advance)
    del model
    memory.free()
    return columns


def _compare(run: Run, adapted: Candidate, rows: Rows, tuned: Columns, tolerance: float) -> Parity:
    """Put sampled rows to the adapter on a base, and compare with what the merged model said of them.

    Args:
        run: whose recipe says how many rows.
        adapted: the adapter on the base.
        rows: the test part.
        tuned: what the merged model made of all its rows.
        tolerance: where models answer in no words, what still counts as the same.
    """
    chosen = parity.sample(len(rows), run.recipe.evaluate.parity_rows)
    found = _assess(run, adapted, [rows[place] for place in chosen], sampled=False)
    return parity.compare(tuned, found, chosen, tolerance)


def _assess_champion(run: Run, client: "MlflowClient", tokenizers: Tokenizers, rows: Rows) -> tuple[gate.Champion | None, Columns | None]:
    """The present champion and what it makes of the same rows, by the prompt of its own recipe.

    A champion that cannot be scored (other labels, files gone, an answer longer than its recipe has room for) is no fault of this run:
    the gate is told, and refuses.
    """
    recipe = run.recipe
    number = champion_version(client, recipe.name)
    if number is None:
        return None, None
    with tempfile.TemporaryDirectory(dir=run.attempt) as folder:
        try:
            theirs = version_recipe(recipe.name, number, Path(folder))
            if theirs.kind != recipe.kind or set(theirs.labels.names) != set(recipe.labels.names):
                found = f"it tells {list(theirs.labels.names)} apart (expected: {list(recipe.labels.names)})"
                return gate.Champion(number, None, found), None
            model = version_model(recipe.name, number, Path(folder))
            load = partial(load_model, model, theirs.base_model.dtype, classes_of(theirs))
            champion = Candidate(f"champion, version {number}", theirs, tokenizers.of(model, theirs.prompt.new_tokens), load)
            return gate.Champion(number, None), _assess(run, champion, rows)
        except (AnswerTooLong, ContractError, RecipeError) as error:
            return gate.Champion(number, None, str(error)), None


def _majority(recipe: Recipe, parts: "Mapping[Any, Part]", rows: Rows) -> Columns | None:
    """What a model says that always names the training part's most frequent class; None for a kind without labels.

    A balanced training part has none; then the validation part, which keeps the natural shares, decides.
    """
    if not recipe.labels.names:
        return None

    def frequency(name: str) -> tuple[int, ...]:
        return tuple(parts[part].labels.get(name, 0) for part in ("train", "validation") if part in parts)

    return kind_of(recipe).majority(recipe, max(recipe.labels.names, key=frequency), rows)


def _write_predictions(run: Run, rows: Rows, columns: Mapping[str, Columns]) -> Path:
    """Parquet: `row`, of two files `file`, `truth.label` if there is one, of each model what it said as `<model>.<name>`; no text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.attempt / "predictions.parquet"
    table: dict[str, Any] = {"row": [int(row["row"]) for row in rows]}
    if "file" in rows[0]:
        table["file"] = [row["file"] for row in rows]
    if "label" in rows[0]:
        table["truth.label"] = [row["label"] for row in rows]
    table |= {f"{model}.{name}": column for model, said in columns.items() for name, column in said.items()}
    pq.write_table(pa.table(table), path)
    return path


def _replies(rows: Rows, columns: Mapping[str, Columns]) -> dict[str, dict[str, str]]:
    """Place of each test row that a model wrote a reply to, to the replies of all models."""
    said = {model: words(found)["reply"] for model, found in columns.items() if "reply" in found}
    written = [place for place in range(len(rows)) if any(replies[place] for replies in said.values())]
    return {place_of(rows[place]): {model: replies[place] for model, replies in said.items()} for place in written}


def _log(client: "MlflowClient", tracked: TrackedRun, run: Run, evaluation: Evaluation, measured: Mapping[str, Scores]) -> None:
    """Metrics, and the files under `evaluation/`, in the MLflow run."""
    values = {
        "evaluate.batch_size": float(halved(run.recipe, run.halvings("evaluate")).evaluate.batch_size),
        "test.left_out_rows": float(evaluation.left_out_rows),
        "parity.same_labels": float(evaluation.parity.same_labels),
        "parity.largest_difference": evaluation.parity.largest_difference,
    }
    if quantized := evaluation.quantized:
        values |= {"quantized.same_labels": float(quantized.same_labels), "quantized.largest_difference": quantized.largest_difference}
    for model, scores in measured.items():
        values |= tracking.figures_of(model, scores)
    tracking.metrics(tracked, values)
    with tracking.mlflow_errors("evaluate"):
        for path in (evaluation.predictions, evaluation.report, *evaluation.figures.values()):
            client.log_artifact(tracked.run_id, str(run.path(path)), "evaluation")
