"""Compare the points of a sweep: a table and a picture for each metric.

Reads   Plan, TrialScores                runs/<id>/sweep_plan.json, sweep_trial.<trial>.json
Uses    sweep.*                          of the recipe
Writes  Comparison                       runs/<id>/sweep_compare.json
"""

import csv
import io
import statistics
import sys
from collections.abc import Iterator

from tasks.contracts import Comparison, Plan, TrialScores
from tasks.metrics import markdown, plots
from tasks.registry import tracking
from tasks.schema.sweep import Sweep
from tasks.schema.sweep_grid import grid_of
from tasks.workspace.files import write_atomically
from tasks.workspace.run import Run

Lines = dict[int, dict[int, list[float]]]
"""Of one metric: size to number of epochs to the value of each seed, the grid's own first."""


def sweep_compare(run: Run) -> Comparison:
    """Put the sweep's points side by side: a table, and for each metric a picture of it over the epochs, one line a size."""
    recipe, planned, grid = run.recipe, run.read(Plan), grid_of(run.recipe)
    trials = [run.read(TrialScores, trial.name) for trial in planned.trials]
    lines = {metric: lines_of(trials, metric, recipe.train.seed) for metric in grid.metrics}
    figures = {}
    for metric, of_sizes in lines.items():
        figures[f"{metric} over epochs"] = path = run.attempt / f"{metric}.png"
        plots.draw_epochs(path, of_sizes, metric)
    text = "\n\n".join(table(lines[metric], metric, grid) for metric in grid.metrics)
    title = f"{recipe.title}: {trials[0].test_rows} test rows, seed {recipe.train.seed}"
    print(f"{title}\n\n{text}", file=sys.stderr, flush=True)
    written, points = run.attempt / "table.md", run.attempt / "points.csv"
    write_atomically(written, f"# {title}\n\n{text}\n")
    write_atomically(points, _csv(trials))
    with tracking.tracked(run) as tracked:
        energy = {"train.energy_kwh": sum(each.emissions.energy_kwh for each in trials)}
        tracking.metrics(tracked, energy | {"train.co2eq_kg": sum(each.emissions.co2eq_kg for each in trials)})
        with tracking.mlflow_errors("sweep_compare"):
            for path in (written, points, *figures.values()):
                tracking.client().log_artifact(tracked.run_id, str(path), "sweep")
    return Comparison(run.relative(written), run.relative(points), {name: run.relative(path) for name, path in figures.items()})


def lines_of(trials: list[TrialScores], metric: str, seed: int) -> Lines:
    """A metric of all points.

    Args:
        trials: what was scored.
        metric: which of the kind's metrics.
        seed: the grid's own, whose values come first.
    """
    found: Lines = {}
    for each in sorted(trials, key=lambda each: (each.trial.rows, each.trial.seed != seed, each.trial.epochs)):
        for point in each.points:
            found.setdefault(each.trial.rows, {}).setdefault(point.epochs, []).append(point.scores[metric].value)
    return found


def table(lines: Lines, metric: str, grid: Sweep) -> str:
    """Markdown: the grid's own seed a line for each size, largest first; then mean and standard deviation where there are more."""
    epochs = sorted(grid.epochs)
    rows = [[f"{size:,} rows", *(f"{lines[size][number][0]:.3f}" for number in epochs)] for size in sorted(lines, reverse=True)]
    if grid.repeat_rows is not None:
        line = lines[grid.repeat_rows]
        spread = [f"{statistics.fmean(line[number]):.3f} ± {statistics.stdev(line[number]):.3f}" for number in epochs]
        rows.append([f"{grid.repeat_rows:,} rows, mean of {1 + len(grid.repeat_seeds)} seeds ± standard deviation", *spread])
    return markdown.table([f"{metric} after epochs", *map(str, epochs)], rows)


def _csv(trials: list[TrialScores]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    metrics = list(trials[0].points[0].scores)
    writer.writerow(["rows", "seed", "epochs", *(f"{name}{part}" for name in metrics for part in ("", ".low", ".high")), "mlflow_run"])
    writer.writerows(_lines(trials, metrics))
    return stream.getvalue()


def _lines(trials: list[TrialScores], metrics: list[str]) -> Iterator[list[object]]:
    for each in trials:
        for point in each.points:
            scores = [point.scores[name] for name in metrics]
            values = [value for score in scores for value in (score.value, score.low, score.high)]
            yield [each.trial.rows, each.trial.seed, point.epochs, *values, point.tracked.run_id]
