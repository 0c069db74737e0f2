"""The grid of a sweep: which trainings it takes, and the recipe of each. Pure."""

from tasks.contracts import Trial
from tasks.errors import RecipeError
from tasks.schema.recipe import Recipe
from tasks.schema.sweep import Sweep


def grid_of(recipe: Recipe) -> Sweep:
    """The recipe's grid.

    Raises:
        RecipeError: it has none.
    """
    if recipe.sweep is None:
        raise RecipeError(f"{recipe.name}.yaml", "sweep is missing", "a grid for a sweep", "add sweep.rows, epochs and metrics")
    return recipe.sweep


def trials_of(recipe: Recipe) -> tuple[Trial, ...]:
    """The trainings of the recipe's grid, the longest first.

    With a constant learning rate a training of E epochs is, after e of them, the training of e epochs: one of each size and seed
    is enough. Under any other schedule every number of epochs takes a training of its own.

    Raises:
        RecipeError: the recipe has no grid.
    """
    grid, constant = grid_of(recipe), recipe.train.lr_scheduler_type == "constant"
    seeded = [(rows, recipe.train.seed) for rows in grid.rows]
    seeded += [(grid.repeat_rows, seed) for seed in grid.repeat_seeds if grid.repeat_rows is not None]
    epochs = tuple(sorted(grid.epochs))
    scored = [epochs] if constant else [(number,) for number in epochs]
    trials = [Trial(_name(rows, seed, own, constant), rows, seed, own) for rows, seed in seeded for own in scored]
    return tuple(sorted(trials, key=lambda trial: -trial.rows * trial.epochs[-1]))


def _name(rows: int, seed: int, epochs: tuple[int, ...], constant: bool) -> str:
    return f"rows-{rows}-seed-{seed}" if constant else f"rows-{rows}-epochs-{epochs[-1]}-seed-{seed}"


def recipe_of(recipe: Recipe, trial: Trial) -> Recipe:
    """The recipe that a trial trains: its rows, seed and epochs, nothing scored but on the test part."""
    own = {"rows": trial.rows, "seed": trial.seed, "num_train_epochs": float(trial.epochs[-1]), "max_steps": None}
    silent = {"eval_strategy": "no", "eval_steps": None, "metric_for_best_model": None}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=own | silent), "sweep": None})
