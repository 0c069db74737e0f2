"""A key that stands twice is a fault wherever a user writes YAML; what YAML allows goes on working."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tasks.cli import app
from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import load as recipes
from tasks.schema import strict_yaml
from tests.tools.test_audit import audit


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a: 1\nb: 2\na: 3\n", ["lines 1 and 3: a stands twice"]),
        ("a: 1\na: 1\n", ["lines 1 and 2: a stands twice"]),
        ("a:\n  b:\n    - c: 1\n      d: 2\n      c: 3\n", ["lines 3 and 5: a.b.0.c stands twice"]),
        ("a: {b: 1, b: 2}\n", ["lines 1 and 1: a.b stands twice"]),
        ('{"a": 1, "a": 2}', ["lines 1 and 1: a stands twice"]),
        ("a: 1\n'a': 2\n\"a\": 3\n", ["lines 1, 2 and 3: a stands 3 times"]),
        ("1: x\n'1': y\n", ["lines 1 and 2: 1 stands twice"]),
        ("no: x\nfalse: y\n", ["lines 1 and 2: no stands twice"]),
        ("1: x\ntrue: y\n1.0: z\n", ["lines 1, 2 and 3: 1 stands 3 times"]),
        ("'1': x\n1: y\n0x1: z\n", ["lines 1, 2 and 3: 1 stands 3 times"]),
        ("a: 1\na: 2\nb:\n  c: 1\n  c: 2\n", ["lines 1 and 2: a stands twice", "lines 4 and 5: b.c stands twice"]),
        ("x: &x {a: 1, a: 2}\ny: *x\n", ["lines 1 and 1: x.a stands twice"]),
        ("? [a, b]\n: {c: 1, c: 2}\n", ["lines 2 and 2: ?.c stands twice"]),
    ],
)
def test_a_key_that_stands_twice_is_told_with_its_lines_and_its_path(text: str, faults: list[str]) -> None:
    with pytest.raises(strict_yaml.RepeatedKeysError) as caught:
        strict_yaml.load(text)
    assert len(caught.value.faults) == len(faults)
    assert all(found.startswith(expected) for found, expected in zip(caught.value.faults, faults, strict=False)), caught.value.faults


@pytest.mark.parametrize(
    "text",
    [
        "", "- 1\n", "a: {b: 1}\nc: {b: 1}\n", "- {a: 1}\n- {a: 1}\n", "a: 1\nA: 2\n", "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  a: 3\n",
        "x: &x {a: 1}\nz: &z {b: 2}\ny:\n  <<: [*x, *z]\n", "x: &x {a: 1}\nz: &z {b: 2}\ny:\n  <<: *x\n  <<: *z\n", "&r a: [*r, *r]\n",
        "a: &a\n  b: *a\n", "1: a\n2: b\n", "2026-01-01: a\n~: b\n",
    ],
)  # fmt: skip
def test_everything_else_is_as_pyyaml_reads_it(text: str) -> None:
    assert repr(strict_yaml.load(text)) == repr(yaml.safe_load(text))


def test_every_shipped_recipe_is_as_pyyaml_reads_it() -> None:
    for path in recipes.recipe_files():
        assert recipes.load(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_recipe_with_a_section_twice_is_refused_with_file_lines_and_key(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\ntrain:\n  seed: 1\n  seed: 2\nlabels:\n  rule: {opening: {yes: [a], true: [b]}}\ntrain:\n  seed: 3\n")
    with pytest.raises(RecipeErrors) as caught:
        recipes.load(path)
    assert str(caught.value).splitlines() == [
        "twice.yaml: lines 2 and 7: train stands twice (expected: one value for each key). Fix: keep one of them",
        "twice.yaml: lines 3 and 4: train.seed stands twice (expected: one value for each key). Fix: keep one of them",
        "twice.yaml: lines 6 and 6: labels.rule.opening.yes stands twice (expected: one value for each key). Fix: keep one of them",
    ]
    with pytest.raises(RecipeErrors, match="recipe.yaml: lines 1 and 2: name stands twice"):  # a frozen one, edited by hand
        recipes.parse("name: a\nname: a\n", "recipe.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["train.rows=5", "train.rows=6"], "--set: train.rows is given twice, as '5' and '6' (expected: one value). Fix: remove the other"),
        (["train.rows=5", "train={seed: 3}"], "--set: train.rows and train set the same key"),
        (["train={seed: 3}", "train.rows=5"], "--set: train and train.rows set the same key"),
        (["train={seed: 3, seed: 4}"], "--set train: lines 1 and 1: seed stands twice"),
        (["train={seed: 3"], "--set train: not readable as YAML"),
    ],
)
def test_a_key_given_twice_on_the_command_line_is_refused(given: list[str], message: str, home: Path) -> None:
    arguments = [part for one in given for part in ("--set", one)]
    done = CliRunner().invoke(app, ["start", "tweets", *arguments])
    assert isinstance(done.exception, RecipeError) and message in str(done.exception)
    assert not (home / "runs").exists()


def test_neighbours_and_the_same_beginning_of_a_name_are_no_repetition(home: Path) -> None:
    done = CliRunner().invoke(app, ["start", "tweets", "--set", "train.save_steps=5", "--set", "train.seed=6", "--set", "run.push=false"])
    assert done.exception is None


def test_an_accepted_advisory_that_holds_a_key_twice_is_refused() -> None:
    from datetime import date

    entry = "- package: a\n  id: X-1\n  until: 2020-01-01\n  until: 2099-01-01\n  reason: none\n"
    with pytest.raises(SystemExit, match="advisories.yaml: lines 3 and 4: 0.until stands twice"):
        audit.accepted(entry, date(2026, 1, 1))
