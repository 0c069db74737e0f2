"""Plan the trainings of a sweep: one for each size and seed of the grid.

Reads   DatasetVersion          runs/<id>/version.json
Uses    sweep.*, train.*        of the recipe
Writes  Plan                    runs/<id>/sweep_plan.json
"""

import sys

from tasks.contracts import DatasetVersion, Plan
from tasks.errors import DataError
from tasks.registry import tracking
from tasks.schema.sweep_grid import grid_of, trials_of
from tasks.workspace.run import Run


def sweep_plan(run: Run) -> Plan:
    """Say which trainings the grid takes, and open the MLflow run that they are nested below."""
    recipe, part = run.recipe, run.read(DatasetVersion).parts["train"]
    grid, trials = grid_of(recipe), trials_of(recipe)
    if (largest := max(grid.rows)) > part.rows:
        found = f"{largest:,} rows asked for"
        raise DataError("sweep.rows", found, f"at most the {part.rows:,} of the training part", "ask for smaller sizes")
    with tracking.tracked(run) as tracked:
        tracking.parameters(tracked, {f"sweep.{key}": value for key, value in grid.model_dump(mode="json").items()})
    for trial in trials:
        print(f"sweep_plan: {trial.name}, scored after epoch {', '.join(map(str, trial.epochs))}", file=sys.stderr)
    return Plan(trials, tracked)
