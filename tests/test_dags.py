"""The DAGs as Airflow parses them, their trigger forms and pages; nothing runs here."""

from pathlib import Path
from typing import Any

import pytest

from tasks import recipe as recipes
from tasks.contracts import STEPS, SWEEP_STEPS
from tasks.errors import RecipeErrors
from tasks.schema import Recipe
from tests.dag_folder import CHECKOUT, GRID, dag_of, parse, sweep_of, write_recipe

pytest_plugins = ["tests.dag_folder"]


def test_only_dags_are_parsed_as_dags() -> None:
    """What is parsed as one is imported in every parse, wanted or not."""
    ignored = (CHECKOUT / "dags" / ".airflowignore").read_text(encoding="utf-8").splitlines()[1:]
    parsed = {path.name for path in (CHECKOUT / "dags").glob("*.py") if not any(path.match(form) for form in ignored)}
    assert parsed == {"broken_recipes.py", "retrain.py", "sweep.py"}


def test_every_recipe_is_a_dag_like_the_picture_and_parsing_is_quick_and_light(airflow_home: Path) -> None:
    found = parse(airflow_home)
    assert found["errors"] == {}
    retrain = {f"retrain_{path.stem}" for path in recipes.recipe_files()}
    assert retrain >= {"retrain_tweets", "retrain_ethos"}
    swept = {f"sweep_{path.stem}" for path in recipes.recipe_files() if "sweep" in recipes.load(path)}
    assert swept and set(found["dags"]) == retrain | swept
    assert found["heavy"] == []
    assert found["seconds"] < 1
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
    assert "misspelt.yaml: trian is not a key of the recipe; did you mean train?" in error
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


def test_the_form_shows_the_recipes_values_in_the_default_profile(recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {name: param.value for name, param in fields(recipes_folder).items()}
    assert shown == {
        "profile": "local", "data": "new", "base_model": "folder:/small", "rows": 90, "epochs": 3, "steps": None,
        "learning_rate": shown["learning_rate"], "rank": 8, "seed": 3, "promotion": "auto", "push": True,
    }  # fmt: skip
    monkeypatch.setenv("LORAFLOW_PROFILE", "full")
    full = {name: param.value for name, param in fields(recipes_folder).items()}
    assert (full["profile"], full["base_model"], full["rows"]) == ("full", "folder:/base", None)


def test_every_field_is_typed_explained_and_in_a_section(recipes_folder: Path) -> None:
    for param in fields(recipes_folder).values():
        assert param.schema["title"] and param.schema["section"] in ("This run", "Training") and param.description.endswith(".")
        assert "type" in param.schema and "anyOf" not in param.schema
    assert fields(recipes_folder)["rows"].description.endswith("empty: all. In profile full: empty.")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("profile", ["local", "full"], ["fast", None]),
        ("data", ["new", "latest", "v1", "v20"], ["v0", "newest", "", None]),
        ("base_model", ["google/gemma-2b-it", "pypi:a-b==1.0", "folder:/x"], ["gemma", "folder:x", "https://x/y", "a/b/c", "../x"]),
        ("rows", [1, 5000, None], [0, -1, 1.5, "many"]),
        ("epochs", [0.5, 3, 1000], [0, 1001, None]),
        ("steps", [1, None], [0, 10**8]),
        ("learning_rate", [1e-5, 1], [0, 2, "3e-4", None]),
        ("rank", [1, 1024], [0, 1025, 2.5]),
        ("seed", [0, 2**31 - 1], [-1, 2**31]),
        ("promotion", ["auto", "manual", "never"], ["yes"]),
        ("push", [True, False], ["yes", 1]),
    ],
)
def test_the_form_takes_good_values_and_refuses_bad_ones(recipes_folder: Path, field: str, good: list[Any], bad: list[Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = fields(recipes_folder)[field]
    for value in good:
        assert param.resolve(value) == value
    for value in bad:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


def resolved(folder: Path, **values: Any) -> Recipe:
    from dags.form import Form

    form = Form.read(folder / "first.yaml")
    return form.resolve({**form.defaults(), **values})


def test_what_is_left_as_shown_follows_the_profile(recipes_folder: Path) -> None:
    local, full = resolved(recipes_folder), resolved(recipes_folder, profile="full")
    assert (local.train.rows, local.base_model.name) == (90, "folder:/small")
    assert (full.train.rows, full.base_model.name, full.profile) == (None, "folder:/base", "full")


def test_what_is_changed_counts_in_any_profile(recipes_folder: Path) -> None:
    for profile in ("local", "full"):
        recipe = resolved(recipes_folder, profile=profile, rows=30, rank=2, data="v3", promotion="manual", push=False)
        assert (recipe.train.rows, recipe.lora.r) == (30, 2)
        assert (recipe.run.data, recipe.run.promotion, recipe.run.push) == ("v3", "manual", False)
    assert resolved(recipes_folder, rows=None).train.rows is None


def test_a_field_that_is_none_is_refused_with_its_neighbour(recipes_folder: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        resolved(recipes_folder, learning_rat=0.1, colour="red")
    first, second = str(caught.value).splitlines()
    assert first == "first.yaml: learning_rat is no field of the form; did you mean learning_rate?"
    assert second.startswith("first.yaml: colour is no field of the form; one of: profile, data, base_model, rows")


def test_a_combination_that_the_form_cannot_express_is_refused(recipes_folder: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"first.yaml: train.rows is 2 with 3 labels, a row of each expected; use more rows"):
        resolved(recipes_folder, rows=2)


def test_a_recipe_with_a_grid_has_a_sweep_as_well(airflow_home: Path, recipes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(recipes_folder, "gridded", sweep=GRID, local={"sweep": {"epochs": [1]}})
    found = parse(airflow_home, LORAFLOW_RECIPES=str(recipes_folder))
    assert set(found["dags"]) == {"retrain_first", "retrain_gridded", "sweep_gridded"} and found["errors"] == {}
    for dag_id in ("sweep_gridded", "retrain_gridded"):
        within = {"LORAFLOW_RECIPES": str(recipes_folder), "_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id}
        assert list(parse(airflow_home, **within)["dags"]) == [dag_id]

    dag = sweep_of(recipes_folder)
    shown = {name: dag.params.get_param(name).value for name in dag.params}
    assert shown == {
        "profile": "local", "data": "new", "base_model": "folder:/base", "sizes": [12, 24], "epochs": [1], "repeat_size": 12,
        "repeat_seeds": [4], "learning_rate": shown["learning_rate"], "rank": 8, "seed": 3,
    }  # fmt: skip
    assert dag.params.get_param("epochs").description.endswith("In profile full: [1, 2].")
    assert "nested below the sweep's" in dag.doc_md and "Licence of the data" in dag.doc_md
    assert (dag.max_active_runs, dag.get_task("trial").max_active_tis_per_dagrun) == (1, 1)
    monkeypatch.setenv("LORAFLOW_SWEEP_TRAININGS", "4")
    assert sweep_of(recipes_folder).get_task("trial").max_active_tis_per_dagrun == 4


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("sizes", [[12], [3, 4]], [[], [0], ["12"], 12, None]),
        ("repeat_size", [12, None], [0, [12]]),
        ("repeat_seeds", [[], [0, 1]], [[-1], None]),
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
