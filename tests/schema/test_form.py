"""The fields of the trigger form: which texts and JSON values count, as what, and how the others are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.cli import app
from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import load as recipes
from tasks.schema.form import Field, FilledForm, Form
from tasks.schema.load import FORM, SWEEP_FORM
from tests.support.dag_folder import GRID, write_recipe

pytest_plugins = ["tests.support.dag_folder"]


def field(name: str) -> Field:
    return Field("form", name, {"epochs_of_sweep": "sweep.epochs", **SWEEP_FORM, **FORM}[name])


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("rows", {"900": 900, " 900 ": 900, "\t1\n": 1, "all": None, "9007199254740993": 2**53 + 1}),
        ("steps", {"1": 1, "10000000": 10_000_000, "none": None}),
        ("rank", {"1": 1, "1024": 1024}),
        ("seed", {"0": 0, "2147483647": 2**31 - 1}),
        ("learning_rate", {"2e-4": 0.0002, "0.0002": 0.0002, "2E-4": 0.0002, ".0002": 0.0002, "2.5e-04": 0.00025, "1": 1.0, "1.": 1.0}),
        ("epochs", {"0.5": 0.5, "3": 3.0, "1e+2": 100.0, "1000": 1000.0, "0.125": 0.125, "2.50": 2.5, "10.0": 10.0}),
        ("sizes", {"200": (200,), "200, 400,  800": (200, 400, 800), "[200,400]": (200, 400), "[1, 200]": (1, 200)}),
        ("epochs_of_sweep", {"1, 2": (1, 2)}),
        ("repeat_size", {"200": 200, "none": None}),
        ("repeat_seeds", {"0, 1": (0, 1), "none": (), "[]": ()}),
        ("push", {"yes": True, "No": False, "true": True, "FALSE": False}),
        ("promotion", {"auto": "auto", " manual": "manual"}),
        ("data", {"new": "new", "v20 ": "v20"}),
        ("base_model", {"google/gemma-2b-it": "google/gemma-2b-it", "folder:/a b": "folder:/a b"}),
    ],
)
def test_spellings_that_count(name: str, spellings: dict[str, Any]) -> None:
    for text, value in spellings.items():
        parsed = field(name).parse(text)
        assert parsed == value and type(parsed) is type(value), text


NEVER = [
    *("1,000", "1 000", "1_000", "1'000", "1\u00a0000", "1\u202f000", "1\u200b0", "\u0663", "\uff19\uff10\uff10", "\u00b2", "2e\u22124"),
    *("0x10", "0b1", "0o7", "010", "nan", "NaN", "inf", "-inf", "1e400", "1e999999999999999999999", "9" * 5000),
    *("-5", "+5", "--5", "5-", "1/2", "50%", "1e", "e5", "1e-", "1.2.3", "..", ".", "-", "1;2", "1:30", "$1", "1k", "2*10^-4", "2,5e-4"),
    *("ten", "None", "null", "true", "[900]", '"900"'),
]


@pytest.mark.parametrize("text", NEVER, ids=lambda text: ascii(text)[:20])
def test_texts_that_are_no_number_of_any_field(text: str) -> None:
    for name in ("rows", "steps", "rank", "seed", "repeat_size", "learning_rate", "epochs"):
        with pytest.raises(RecipeError):
            field(name).parse(text)


@pytest.mark.parametrize(
    ("name", "value", "found", "remedy"),
    [
        ("rows", "9e2", "rows is '9e2' (expected: a whole number of at least 1 or the word all)", "write digits only, such as 1000"),
        ("rows", "900.0", "rows is '900.0' (expected: a whole number of at least 1 or the word all)", "write digits only, such as 1000"),
        ("rows", "1.000", "rows is '1.000' (expected: a whole number of at least 1 or the word all)", "write digits only, such as 1000"),
        ("rows", "none", "rows is 'none' (expected: a whole number of at least 1 or the word all)", "write digits only, such as 1000"),
        ("rows", 0, "rows is 0 (expected: a whole number of at least 1 or the word all)", "correct the value"),
        ("rank", "100000", "rank is '100000' (expected: a whole number from 1 to 1024)", "correct the value"),
        ("epochs", "0,5", "epochs is '0,5' (expected: a number above 0 and up to 1000)",
         "write it with a decimal point, such as 0.5 or 2e-4"),
        ("epochs", "1.000", "epochs is '1.000' (expected: a number above 0 and up to 1000)",
         "this may mean 1 or 1000: write one of them"),
        ("epochs", "1.250", "epochs is '1.250' (expected: a number above 0 and up to 1000)",
         "this may mean 1.25 or 1250: write one of them"),
        ("learning_rate", "1e-400", "learning_rate is '1e-400' (expected: a number above 0 and up to 1)",
         "correct the value"),
        ("sizes", "1,200", "sizes is '1,200' (expected: up to 50 whole numbers of at least 1, separated by a comma and a blank)",
         "write digits only, and a comma with a blank between two numbers, such as 200, 1000"),
        ("push", "maybe", "push is 'maybe' (expected: yes or no)", "correct the value"),
        ("promotion", "gate", "promotion is 'gate' (expected: auto, manual or never)", "correct the value"),
        ("data", "v0", "data is 'v0' (expected: a value such as new, latest or v1)",
         "correct the value"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_expected_and_what_to_do(name: str, value: Any, found: str, remedy: str) -> None:
    with pytest.raises(RecipeError) as caught:
        field(name).parse(value)
    assert str(caught.value) == f"form: {found}. Fix: {remedy}"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("rows", {900: 900}, [True, False, 900.0, 1.5, 0, -1, [900], {}, {"a": 1}]),
        ("rank", {1024: 1024}, [1025, True, [8], 8.5]),
        ("learning_rate", {0.0002: 0.0002, 1: 1.0}, [0, 2, True, [0.1], float("inf"), float("nan"), -1e-4, 10**400]),
        ("push", {True: True, False: False}, [1.5, 2, [True], "1", "on"]),
        ("promotion", {}, [True, 1, ["auto"]]),
        ("data", {}, [1, True, ["new"]]),
        ("base_model", {}, [1, "gemma", "\ud800/x", "folder:relative", "a/" + "b" * 400]),
        ("sizes", {}, [200, "", [], [0], ["200"], [True], [1.5], [[200]], list(range(1, 52)), {}]),
        ("repeat_seeds", {}, [7, [-1], [2**31]]),
    ],
)
def test_json_values_count_by_their_type(name: str, good: dict[Any, Any], bad: list[Any]) -> None:
    for value, meaning in good.items():
        parsed = field(name).parse(value)
        assert parsed == meaning and type(parsed) is type(meaning)
    for value in bad:
        with pytest.raises(RecipeError, match=f"^form: {name} is "):
            field(name).parse(value)
    if name == "push":
        for number in (0, 1):
            with pytest.raises(RecipeError):
                field(name).parse(number)


def test_json_lists_count() -> None:
    assert field("sizes").parse([200, 400]) == (200, 400)
    assert field("repeat_seeds").parse([]) == ()


LIKE_NUMBERS = st.text(alphabet="0123456789.,eE+-_ xobinfa'\u00a0\u200b\u0663\uff19\u00b2", max_size=12)


@given(st.one_of(LIKE_NUMBERS, st.text(max_size=12), st.floats().map(str), st.integers().map(str)))
@example("1.000")
@example("1e-400")
@example("1_0")
def test_no_text_becomes_a_number_that_python_does_not_read_in_it(text: str) -> None:
    for name, read in (("rows", int), ("rank", int), ("seed", int), ("epochs", float), ("learning_rate", float)):
        try:
            parsed = field(name).parse(text)
        except RecipeError:
            continue
        if not (name == "rows" and text.strip() == "all"):
            assert parsed == read(text), (name, text)


@given(
    st.sampled_from(sorted({**SWEEP_FORM, **FORM})), st.one_of(LIKE_NUMBERS, st.sampled_from(["all", "none", "1, 2", "[1,2]", "yes", "v1"]))
)
def test_airflow_s_pattern_lets_through_whatever_counts(name: str, text: str) -> None:
    padded = f"\u3000{text}\n"
    try:
        field(name).parse(padded)
    except RecipeError:
        return
    assert re.search(field(name).pattern, padded)


@given(st.floats(min_value=1e-300, max_value=1), st.integers(1, 2**63))
def test_every_number_is_read_as_python_writes_it(rate: float, rows: int) -> None:
    assert field("learning_rate").parse(repr(rate)) == rate
    assert field("rows").parse(str(rows)) == rows


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.sampled_from(["{}", "[{}]"]))
def test_every_list_is_read_as_the_form_shows_it(sizes: list[int], frame: str) -> None:
    assert field("sizes").parse(frame.format(field("sizes").text(sizes))) == tuple(sizes)


def filled(folder: Path, name: str = "first", fields: Any = FORM, **values: Any) -> FilledForm:
    return Form.read(folder / f"{name}.yaml", fields).fill(values)


def test_an_empty_field_follows_the_profile_and_any_other_counts(recipes_folder: Path) -> None:
    """Profile local has 90 rows, profile full all of them."""
    expected: list[tuple[dict[str, Any], Any]] = [
        ({}, 90), ({"profile": "local"}, 90), ({"profile": "full"}, None), ({"profile": " full "}, None), ({"profile": None}, 90),
        ({"profile": "full", "rows": 90}, 90), ({"profile": "full", "rows": "90"}, 90), ({"profile": "full", "rows": None}, None),
        ({"rows": None}, 90), ({"rows": ""}, 90), ({"rows": "  "}, 90), ({"rows": "all"}, None), ({"rows": 30}, 30),
    ]  # fmt: skip
    for values, rows in expected:
        assert filled(recipes_folder, **values).recipe.train.rows == rows, values


def test_values_go_into_the_recipe_in_any_profile(recipes_folder: Path) -> None:
    for profile in ("local", "full"):
        values = {"profile": profile, "rows": "30", "rank": 2, "data": "v3", "promotion": "manual", "push": "no", "steps": "none"}
        form = filled(recipes_folder, **values)
        assert (form.recipe.train.rows, form.recipe.lora.r, form.recipe.train.max_steps) == (30, 2, None)
        assert (form.recipe.run.data, form.recipe.run.promotion, form.recipe.run.push) == ("v3", "manual", False)
        again = filled(recipes_folder, **form.conf())
        assert again.recipe == form.recipe


def test_the_grid_is_taken_from_the_form(recipes_folder: Path) -> None:
    write_recipe(recipes_folder, "gridded", sweep=GRID)
    form = filled(recipes_folder, "gridded", SWEEP_FORM, sizes="12, 36", epochs=[2, 3], repeat_size="none", repeat_seeds="none", seed="9")
    sweep = form.recipe.sweep
    assert sweep and (sweep.rows, sweep.epochs, sweep.repeat_rows, sweep.repeat_seeds) == ((12, 36), (2, 3), None, ())
    assert (form.recipe.train.seed, filled(recipes_folder, "gridded", SWEEP_FORM, **form.conf()).recipe) == (9, form.recipe)


def test_all_faults_are_told_at_once(recipes_folder: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        filled(recipes_folder, profile="fast", rows="1,000", learning_rat=0.1, colour="red", rank=True)
    lines = str(caught.value).splitlines()
    assert sorted(lines[:2]) == [
        "trigger form of first: colour is not a field. Fix: one of: profile, data, base_model, rows, epochs, steps, "
        "learning_rate, rank, seed, "
        "promotion, push",
        "trigger form of first: learning_rat is not a field. Fix: did you mean learning_rate?",
    ]
    assert lines[2:] == [
        "trigger form of first: profile is 'fast' (expected: local or full). Fix: correct the value",
        "trigger form of first: rows is '1,000' (expected: a whole number of at least 1 or the word all). Fix: write "
        "digits only, such as 1000",
        "trigger form of first: rank is True (expected: a whole number from 1 to 1024). Fix: correct the value",
    ]


def test_values_that_do_not_fit_together_are_refused(recipes_folder: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"first.yaml: train.rows is 2 with 3 labels \(expected: a row of each\)\. Fix: use more rows"):
        filled(recipes_folder, rows=2)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("5e-2", "10 times higher"),
        ("0.5", "100 times higher"),
        ("5e-4", "10 times lower"),
        (5e-6, "1,000 times lower"),
        ("4.9e-2", ""),
        ("6e-4", ""),
    ],
)
def test_a_learning_rate_far_from_the_recipe_s_is_reported(recipes_folder: Path, rate: Any, said: str) -> None:
    """The recipe has 0.005."""
    warnings = list(filled(recipes_folder, learning_rate=rate).warnings())
    assert [said in warning for warning in warnings] == ([True] if said else [])


def test_the_rate_is_compared_with_the_chosen_profile_s(recipes_folder: Path) -> None:
    write_recipe(recipes_folder, "first", local={"train": {"learning_rate": 5e-5}})
    assert list(filled(recipes_folder, profile="full", learning_rate="5e-3").warnings()) == []
    assert "100 times higher than the recipe's 5e-05 in profile local" in next(filled(recipes_folder, learning_rate="5e-3").warnings())


def test_retrain_refuses_a_value_before_anything_is_started(recipes_folder: Path, home: Path) -> None:
    from typer.testing import CliRunner

    for values, message in (
        (["rows=1,000", "rank=0"], "rows is '1,000'.*\n.*rank is '0' .expected: a whole number from 1 to 1024."),
        (["rows=1", "rows=2"], "--param: rows is given twice, as '1' and '2'"),
        (["rows"], "--param: 'rows' has no ="),
        (["ranks=4"], "ranks is not a field. Fix: did you mean rank?"),
    ):
        outcome = CliRunner().invoke(app, ["retrain", "first", *(word for value in values for word in ("--param", value))])
        assert isinstance(outcome.exception, RecipeError)
        with pytest.raises(RecipeError, match=message):
            raise outcome.exception
    assert not home.exists()


def test_every_recipe_s_own_values_can_be_typed_into_its_form() -> None:
    for path in recipes.recipe_files():
        for fields in (FORM, SWEEP_FORM):
            form = Form.read(path, fields)
            for profile, recipe in form.in_profile.items():
                if fields is SWEEP_FORM and not recipe.sweep:
                    continue
                typed = {name: each.shown(recipe) for name, each in form.fields.items()}
                assert form.fill({"profile": profile, **typed}).recipe == recipe, (path, profile)
