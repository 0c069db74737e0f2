"""Which trainings a sweep takes, and what its grid may not be."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Plan
from tasks.errors import DataError, RecipeError, RecipeErrors
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.schema.sweep_grid import recipe_of, trials_of
from tasks.settings import CHECKOUT
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

GRID: dict[str, Any] = {"rows": [12, 24], "epochs": [2, 1], "metrics": ["macro_f1", "roc_auc"], "repeat_rows": 12, "repeat_seeds": [4, 5]}


@pytest.fixture
def document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    return tiny_document | {"sweep": dict(GRID)}


def resolved(document: dict[str, Any], **changes: Any) -> Recipe:
    return recipes.resolve(document, "full", {key.replace("__", "."): value for key, value in changes.items()})


def test_with_a_constant_learning_rate_one_training_of_each_size_and_seed_is_enough(document: dict[str, Any]) -> None:
    trials = trials_of(resolved(document))
    assert [(trial.name, trial.rows, trial.seed, trial.epochs) for trial in trials] == [
        ("rows-24-seed-3", 24, 3, (1, 2)),
        ("rows-12-seed-3", 12, 3, (1, 2)),
        ("rows-12-seed-4", 12, 4, (1, 2)),
        ("rows-12-seed-5", 12, 5, (1, 2)),
    ]


def test_under_another_schedule_each_number_of_epochs_takes_a_training(document: dict[str, Any]) -> None:
    trials = trials_of(resolved(document, train__lr_scheduler_type="linear", sweep__repeat_rows=None, sweep__repeat_seeds=[]))
    assert {(trial.name, trial.rows, trial.epochs) for trial in trials} == {
        ("rows-24-epochs-2-seed-3", 24, (2,)), ("rows-24-epochs-1-seed-3", 24, (1,)),
        ("rows-12-epochs-2-seed-3", 12, (2,)), ("rows-12-epochs-1-seed-3", 12, (1,)),
    }  # fmt: skip


def test_a_trial_trains_the_recipe_with_its_own_rows_seed_and_epochs(document: dict[str, Any]) -> None:
    recipe = resolved(document, train__max_steps=7, train__eval_strategy="epoch", train__metric_for_best_model="loss")
    own = recipe_of(recipe, trials_of(recipe)[-1])
    expected = {"rows": 12, "seed": 5, "num_train_epochs": 2.0, "max_steps": None, "eval_strategy": "no", "metric_for_best_model": None}
    assert {key: getattr(own.train, key) for key in expected} == expected
    assert own.train.learning_rate == recipe.train.learning_rate and own.lora == recipe.lora


def test_the_grid_is_no_part_of_what_a_model_depends_on(document: dict[str, Any], tiny_document: dict[str, Any]) -> None:
    assert resolved(document).sha256() == resolved(tiny_document).sha256()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "sweep.rows is [] (expected: tuple should have at least 1 item"),
        ({"rows": [12, 12]}, "rows is [12, 12] (expected: each value once). Fix: remove the others"),
        ({"epochs": [0]}, "sweep.epochs.0 is 0"),
        ({"repeat_rows": 13}, "repeat_rows is 13 (expected: one of rows (12, 24)). Fix: correct it"),
        ({"repeat_seeds": []}, "repeat_rows and repeat_seeds go together. Fix: give both or neither"),
        ({"repeat_seeds": [3]}, "sweep.repeat_seeds holds train.seed 3 (expected: further seeds). Fix: remove it"),
        ({"rows": [2, 12]}, "sweep.rows holds 2 with 3 labels (expected: a row of each). Fix: use more rows"),
        ({"metrics": ["f2"]}, "sweep names the metric 'f2' (expected: one of macro_f1, accuracy, roc_auc). Fix: correct the name"),
        ({"sizes": [1]}, "sweep.sizes is not a key of sweep"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(document: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        resolved(document | {"sweep": GRID | changes})
    assert message in str(caught.value)


def test_plan_writes_the_trials_down_and_opens_the_sweep_s_run(home: Path, tiny_base: Path, document: dict[str, Any]) -> None:
    run = tiny.start_at_train(home / "runs/tiny/grid", tiny_base, tiny.tweets(120), document)
    perform("sweep_plan", run)
    planned = run.read(Plan)
    assert planned.trials == trials_of(run.recipe)
    shown = tracking.client().get_run(planned.tracked.run_id)
    assert (shown.data.params["sweep.rows"], shown.data.params["sweep.repeat_rows"]) == ("[12, 24]", "12")


def test_more_rows_than_the_training_part_has_are_told_before_any_training(home: Path, tiny_base: Path, document: dict[str, Any]) -> None:
    run = tiny.start_at_train(home / "runs/tiny/grid", tiny_base, tiny.tweets(80), document)
    with pytest.raises(DataError, match=r"sweep.rows: 24 rows asked for \(expected: at most the 20 of the training part\)"):
        perform("sweep_plan", run)


def test_a_recipe_without_a_grid_has_no_sweep(make_run: Callable[..., Run], tiny_document: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"tiny.yaml: sweep is missing \(expected: a grid for a sweep\)"):
        trials_of(make_run(tiny_document).recipe)


def test_former_names_of_the_steps_are_taken_with_a_warning(make_run: Callable[..., Run], document: dict[str, Any]) -> None:
    run = make_run(document)
    command = [sys.executable, "-m", "tasks", "plan", "--run", str(run.folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert "the step plan is now sweep_plan, and the former name will go. Fix: use loraflow sweep_plan" in done.stderr
    assert done.returncode == 66 and "version.json: not there" in done.stderr, "it is the same step"


def test_a_recipe_may_name_them_in_pods(tiny_document: dict[str, Any]) -> None:
    tiny_document["pods"] = {"steps": ["train", "trial"], "gpu_steps": ["trial"], "step_resources": {"trial": {"memory": "9Gi"}}}
    with pytest.warns(UserWarning, match=r"pods.gpu_steps: trial is now sweep_trial, and the former name will go. Fix: write sweep_trial"):
        pods = recipes.resolve(tiny_document).pods
    assert pods.take("sweep_trial") and pods.gpus_of("sweep_trial", 2) == 2 and pods.resources_of("sweep_trial").memory == "9Gi"
    assert not pods.take("sweep_plan") and pods.gpus_of("train", 2) == 0
