"""A training as each of its processes is given it; what this machine cannot do is told before any of them starts."""

from dataclasses import dataclass
from pathlib import Path

from tasks.contracts import DatasetVersion, Download, TrackedRun
from tasks.errors import DataError, RecipeError
from tasks.model.load import device
from tasks.schema.recipe import Recipe
from tasks.workspace.checkpoint_files import newest_whole
from tasks.workspace.run import Run


@dataclass(frozen=True)
class Job:
    """A training: files that are there, and what to do with them."""

    run: Run
    recipe: Recipe
    """As it is frozen, or as the trial has it; its batches not yet halved."""
    halvings: int
    tracked: TrackedRun
    """The MLflow run that shows the training."""
    step: str
    """Name of the step that trains, for progress and messages."""
    base: Path
    train_part: Path
    validation_part: Path | None
    """None where the training is not scored on it."""
    data_tag: str
    resume_from: Path | None
    """The newest whole checkpoint."""


def job_of(run: Run, recipe: Recipe, tracked: TrackedRun, step: str) -> Job:
    """The training of a recipe on the run's base model and data set version; checkpoints in `run.kept` let a killed one go on.

    Args:
        run: whose base model and data set version are trained on.
        recipe: the run's own, or one that differs in `train`.
        tracked: the MLflow run that shows the training.
        step: name of the step that trains.

    Raises:
        RecipeError: it asks for what this machine has not.
        DataError: there is no validation part where the recipe is to be scored on one.
    """
    _check_device(recipe)
    base, version = run.read(Download).base_model, run.read(DatasetVersion)
    scored = recipe.train.eval_strategy != "no"
    if scored and "validation" not in version.parts:
        raise DataError(version.tag, "no validation part", "one with train.eval_strategy", "set it to no, or split anew")
    return Job(
        run=run,
        recipe=recipe,
        halvings=run.halvings(step),
        tracked=tracked,
        step=step,
        base=run.path(base.path),
        train_part=run.path(version.parts["train"].path),
        validation_part=run.path(version.parts["validation"].path) if scored else None,
        data_tag=version.tag,
        resume_from=newest_whole(run.kept),
    )


def _check_device(recipe: Recipe) -> None:
    where, gpus = f"{recipe.name}.yaml: train.", recipe.train.gpus
    if device() == "cpu":
        if recipe.train.fp16:
            raise RecipeError(f"{where}fp16", "is true on a processor", "a GPU", "set it to false for this machine")
        return
    import torch

    if gpus > (found := torch.cuda.device_count()):
        raise RecipeError(f"{where}gpus", f"is {gpus} on a machine with {found}", f"at most {found}", "lower it, or ask for more")
