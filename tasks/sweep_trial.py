"""Train once for a sweep, and score the model on the test part after each of its numbers of epochs.

Reads   Download, DatasetVersion, Plan                 runs/<id>/download.json, version.json, sweep_plan.json
Uses    prompt.*, lora.*, train.*, evaluate.*          of the recipe, with the trial's own rows, seed and epochs
Writes  TrialScores                                    runs/<id>/sweep_trial.<trial>.json
"""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from tasks.contracts import DatasetVersion, Download, Emissions, Plan, Point, Scores, Trial, TrialScores
from tasks.errors import ContractError
from tasks.evaluation import scoring
from tasks.evaluation.scoring import Rows
from tasks.model.halving import halved, within_memory
from tasks.model.tokenizer import Tokens
from tasks.process.parallel import in_ranks
from tasks.registry import tracking
from tasks.schema.sweep_grid import grid_of, recipe_of
from tasks.training.examples import ROWS
from tasks.training.fit import fit
from tasks.training.job import Job, job_of
from tasks.workspace.files import write_atomically
from tasks.workspace.run import Run

if TYPE_CHECKING:
    from transformers import TrainerCallback

KEPT_SCORES = TypeAdapter(dict[int, Scores])
"""Number of epochs to scores, as attempts of one trial hand them on."""


def sweep_trial(run: Run) -> TrialScores:
    """Train one of the sweep's trials; its adapter is not kept, its scores and which rows it trained on are."""
    began, one = time.monotonic(), _trial(run)
    recipe, kept = recipe_of(run.recipe, one), run.kept / "scores.json"
    tokens = Tokens(run.path(run.read(Download).base_model.path), recipe.prompt.new_tokens)
    part = scoring.read_rows(recipe, run.path(run.read(DatasetVersion).parts["test"].path))
    rows, _, _ = scoring.fitting(recipe, tokens, part)
    with tracking.tracked(run, one.name) as tracked:
        taken = TrialInputs(job_of(run, recipe, tracked, "sweep_trial"), one, rows, kept)
        work = partial(in_ranks, recipe.train.gpus, trained_and_scored, taken, "sweep_trial")
        found = within_memory(run, recipe, "sweep_trial", work)
        assert found
        steps, emissions = found
        scores = _read(kept)
        points = tuple(_point(run, one, number, scores[number]) for number in one.epochs)
        tracking.artifact(tracked, run.attempt / ROWS, "train")
    rows_file = run.relative(run.attempt / ROWS)
    return TrialScores(one, tracked, points, len(rows), steps, time.monotonic() - began, emissions, rows_file)


@dataclass(frozen=True)
class TrialInputs:
    """A trial as each of the processes that train is given it."""

    job: Job
    trial: Trial
    rows: Rows
    kept: Path
    """File of the scores."""


def trained_and_scored(taken: TrialInputs) -> tuple[int, Emissions] | None:
    """Train, and score on the way, in each of the processes that train; the first one has the steps and what they spent."""
    fitted = fit(taken.job, partial(_scorer, taken))
    if fitted is None:
        return None
    fitted.rows.write(taken.job.run.attempt / ROWS, fitted.passes)
    return fitted.steps, fitted.emissions


def _trial(run: Run) -> Trial:
    planned = {trial.name: trial for trial in run.read(Plan).trials}
    if run.part not in planned:
        known = ", ".join(planned)
        raise ContractError(f"{run.id}: sweep_trial", f"{run.part!r} is none of the plan", f"one of {known}", "name it with --part")
    return planned[run.part]


def _scorer(taken: TrialInputs, tokens: Tokens) -> "TrainerCallback":
    """A trainer callback that scores the model after each of the trial's numbers of epochs.

    It scores at the end of the step, before a checkpoint of it is saved: a training that goes on from there has the scores already.
    """
    from transformers import TrainerCallback

    one, kept, job = taken.trial, taken.kept, taken.job
    recipe, shown = halved(job.recipe, job.halvings), grid_of(job.run.recipe).metrics

    class Scorer(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            number, rest = divmod(state.global_step * one.epochs[-1], state.max_steps)
            if rest or number not in one.epochs:
                return
            columns = scoring.predict(recipe, model, tokens, taken.rows, f"trial {one.name}, epoch {number}")
            columns |= scoring.generate_samples(recipe, model, tokens, taken.rows)
            found = scoring.measure(recipe, taken.rows, columns)
            write_atomically(kept, KEPT_SCORES.dump_json(_read(kept) | {number: found}, indent=2).decode())
            figures = ", ".join(f"{name} {found[name].value:.3f}" for name in shown)
            print(f"sweep_trial: {one.name}, epoch {number}: {figures}", file=sys.stderr, flush=True)
            tracking.metrics(job.tracked, tracking.figures_of("tuned", found), step=state.global_step)

    return Scorer()


def _read(kept: Path) -> dict[int, Scores]:
    return KEPT_SCORES.validate_json(kept.read_bytes()) if kept.exists() else {}


def _point(run: Run, one: Trial, number: int, scores: Scores) -> Point:
    """A point of the grid, as a run of its own in MLflow."""
    with tracking.tracked(run, one.name, f"epochs-{number}") as tracked:
        tracking.parameters(tracked, {"train.rows": one.rows, "train.seed": one.seed, "train.num_train_epochs": number})
        tracking.metrics(tracked, tracking.figures_of("tuned", scores))
    return Point(number, scores, tracked)
