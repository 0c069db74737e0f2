"""Recipes: the ones that are shipped, and what is said of a bad one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import load as recipes

TURNS = {"human": "Q:", "assistant": "A:"}
FILES = recipes.recipe_files(recipes.RECIPES)


def test_recipes_are_found() -> None:
    assert {"ethos", "tweets"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("profile", ["local", "full"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_resolves_and_reads_back(path: Path, profile: str, tmp_path: Path) -> None:
    recipe = recipes.resolve(recipes.load(path), profile)
    frozen = tmp_path / "recipe.yaml"
    frozen.write_text(recipe.dump(), encoding="utf-8")
    assert recipes.read(frozen) == recipe
    assert recipes.read(frozen).sha256() == recipe.sha256()
    assert "make" in path.read_text(encoding="utf-8").split("\nschema")[0], "the head says how to run it"


def test_ethos_is_the_tutorials() -> None:
    recipe = recipes.resolve(recipes.load(recipes.RECIPES / "ethos.yaml"), "full")
    assert recipe.base_model.name == "google/gemma-2b-it" and recipe.base_model.dtype == "float32"
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (4, 4, 0)
    assert recipe.lora.target_modules == ("q_proj", "v_proj")
    train = recipe.train
    assert (train.learning_rate, train.lr_scheduler_type, train.num_train_epochs, train.weight_decay) == (5e-4, "constant", 4, 0)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.max_grad_norm, train.seed) == (2, 1, 0, 1234)
    assert (recipe.split.seed, recipe.split.test, recipe.prompt.max_tokens) == (32, 198, 128)
    assert recipe.labels.positive == "Negative"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": {"lora_alhpa": 3}}, "tiny.yaml: lora.lora_alhpa is not a key of lora. Fix: did you mean lora_alpha?"),
        ({"trian": {}}, "tiny.yaml: trian is not a key of the recipe. Fix: did you mean train?"),
        ({"train": {"learning_rate": "fast"}}, "tiny.yaml: train.learning_rate is 'fast' (expected: a valid number"),
        ({"train": {"learning_rate": -1}}, "tiny.yaml: train.learning_rate is -1 (expected: greater than 0). Fix: correct the value"),
        ({"kind": "poetry"}, "tiny.yaml: kind is 'poetry' (expected: 'label_scoring'"),
        ({"labels": {"names": ["a"]}}, "tiny.yaml: labels: names is ['a'] (expected: at least two labels, or none). Fix: add the others"),
        ({"labels": {"names": ["a", "b", "b"]}}, "repeat a label (expected: distinct labels). Fix: remove the copy"),
        ({"labels": {"names": ["a", "b"]}}, "positive is missing (expected: one of two names)"),
        ({"labels": {"positive": "neutral"}}, "positive is given with 3 names (expected: two names). Fix: remove it"),
        ({"labels": {"names": ["a", "b"], "positive": "c"}}, "'c' is not among the names"),
        (
            {"labels": {"rule": {"by": "threshold", "threshold": 1, "at_or_above": "positive", "below": "negative"}}},
            "3 names with a threshold rule (expected: 2). Fix: a threshold parts two classes",
        ),
        ({"pods": {"gpu_steps": ["trian"]}}, "pods: gpu_steps holds trian (expected: the name of a step). Fix: did you mean train?"),
        (
            {"pods": {"step_resources": {"poetry": {}}}},
            "step_resources holds poetry (expected: the name of a step). Fix: one of: preflight, d",
        ),
        ({"pods": {"resources": {"cpu": "2k"}}}, "tiny.yaml: pods.resources.cpu is '2k' (expected: string should match pattern"),
        ({"train": {"rows": 2}}, "tiny.yaml: train.rows is 2 with 3 labels (expected: a row of each). Fix: use more rows"),
        ({"prompt": {"template": "no place"}}, "template holds {text} 0 times (expected: once). Fix: mark the text's place"),
        ({"prompt": {"answer": "x"}}, "answer holds {label} 0 times (expected: once). Fix: mark the label's place"),
        (
            {"data": {"source": {"url": "https://x/y", "sha256": None}}},
            "2 sources given (file, url) (expected: exactly one of pypi, hub, file, url)",
        ),
        ({"data": {"source": {"file": None}}}, "0 sources given (none) (expected: exactly one of pypi, hub, file, url)"),
        (
            {"data": {"source": {"file": None, "url": "https://x/y"}}},
            "sha256 is missing (expected: a checksum for what comes over a network",
        ),
        (
            {"data": {"source": {"file": None, "pypi": "a==1", "sha256": "0" * 64}}},
            "member is missing (expected: a path inside a==1). Fix: add it",
        ),
        ({"data": {"source": {"member": "a.csv"}}}, "member is given without pypi or hub. Fix: remove it or name the package"),
        (
            {"data": {"source": {"file": None, "hub": "a/b", "member": "c.csv", "sha256": "0" * 64}}},
            "hub and revision go together. Fix: give both or neither",
        ),
        (
            {"data": {"source": {"file": None, "hub": "a/b", "member": "c.csv", "revision": "0" * 40}}},
            "sha256 is missing (expected: a checksum for what comes over a network). Fix: add it",
        ),
        ({"data": {"source": {"revision": "main"}}}, "tiny.yaml: data.source.revision is 'main' (expected: string should match pattern"),
        ({"data": {"rejected": "b"}}, "data: rejected is given without answer (expected: both replies of a pair)"),
        ({"data": {"answer": "b", "turns": TURNS}}, "data: answer is 'b' with turns (expected: the dialogue's column 'text')"),
        (
            {"data": {"format": "json", "header": ["text"]}},
            "header is given with format json, whose objects name their fields. Fix: remove it",
        ),
        ({"data": {"fields": {"text": "a"}}}, "fields names 'text', a column that the data set has already. Fix: rename the field"),
        ({"data": {"fields": {"Text": "a"}}}, "tiny.yaml: data.fields.Text.[key] is 'Text' (expected: string should match pattern"),
        ({"data": {"fields": {"why": "a"}}}, "data.fields is given with label_scoring, which writes no fields. Fix: remove it"),
        ({"data": {"answer": "b"}}, "data.answer, rejected or turns is given with label_scoring, which has no replies. Fix: remove it"),
        (
            {"lora": {"target_modules": []}},
            "tiny.yaml: lora: target_modules is empty (expected: names of layers or all-linear). Fix: name some",
        ),
        ({"data": {"label": None}}, "data.label is missing (expected: the column of the labels). Fix: name it, or remove labels"),
        ({"labels": {"names": []}}, "data.label is given without labels.names (expected: the classes). Fix: add them, or remove it"),
        ({"labels": {"names": []}, "data": {"label": None}}, "split.balance is downsample (expected: none where a row has not exactly one"),
        (
            {"labels": {"names": []}, "data": {"label": None}, "split": {"balance": "none"}},
            "labels.names is missing (expected: the classes of label_scoring). Fix: add them",
        ),
        ({"data": {"test": {"text": "b"}}}, "tiny.yaml: data.test.source is missing (expected: a value). Fix: add it"),
        ({"split": {"test": 0}}, "split.test is 0 without data.test (expected: test rows). Fix: enlarge it, or name a published test file"),
        (
            {"split": {"published_rows": 3}},
            "split.published_rows is given without data.test (expected: a published test file). Fix: remove it",
        ),
        ({"split": {"groups": "near_copies", "by": "shuffle"}}, "split: groups is near_copies with by: shuffle, whose parts follow from"),
        (
            {"labels": {"rule": {"columns": {}}}},
            "tiny.yaml: labels.rule.by is 'missing' (expected: one of threshold, columns, indexes, opening)",
        ),
        (
            {"labels": {"rule": {"by": "words"}}},
            "tiny.yaml: labels.rule.by is 'words' (expected: one of threshold, columns, indexes, opening)",
        ),
        (
            {"labels": {"rule": {"by": "indexes", "indexes": {"negative": 1}, "seperator": ";"}}},
            "tiny.yaml: labels.rule.seperator is not a key of labels.rule. Fix: did you mean separator?",
        ),
        (
            {"labels": {"rule": {"by": "indexes", "indexes": {"negative": 1, "neutral": 2}}}},
            "no row can be 'positive' by the rule (expected: a place in it for each name). Fix: add it or remove the name",
        ),
        ({"labels": {"rule": {"by": "opening", "opening": {"Neutral": ["n"]}}}}, "'Neutral' is not among the names"),
        ({"base_model": {"name": "../etc"}}, "tiny.yaml: base_model.name is '../etc'"),
        ({"run": {"data": "v0"}}, "tiny.yaml: run.data is 'v0'"),
    ],
)
def test_a_bad_recipe_is_told_with_its_place(tiny_document: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        recipes.resolve(recipes._lay_over(tiny_document, change))
    assert message in str(caught.value)


def test_all_faults_are_told_at_once(tiny_document: dict[str, Any]) -> None:
    del tiny_document["split"]
    tiny_document["train"]["seed"] = -1
    tiny_document["lora"]["rank"] = 8
    with pytest.raises(RecipeErrors) as caught:
        recipes.resolve(tiny_document)
    assert len(caught.value.errors) == len(str(caught.value).splitlines()) == 3
    assert "tiny.yaml: split is missing (expected: a value). Fix: add it" in str(caught.value)


def test_local_keys_count_in_the_local_profile_alone(tiny_document: dict[str, Any]) -> None:
    tiny_document["local"] = {"train": {"rows": 30}, "lora": {"r": 2}}
    tiny_document["published"] = {"train": {"rows": 90, "seed": 5}}
    card = recipes.resolve(tiny_document, "local", {"as_published": True})
    assert (card.train.rows, card.train.seed, card.as_published) == (30, 5, True)
    assert recipes.resolve(tiny_document | {"as_published": True}).train.rows == 90
    assert recipes.resolve(tiny_document, "full").train.rows is None
    local = recipes.resolve(tiny_document, "local", {"lora.r": 3})
    assert (local.train.rows, local.lora.r, local.lora.lora_alpha) == (30, 3, 16)


def test_the_hash_is_of_what_the_model_depends_on(tiny_document: dict[str, Any]) -> None:
    plain = recipes.resolve(tiny_document)
    assert plain.sha256() == recipes.resolve(tiny_document, overrides={"run.push": False, "title": "other"}).sha256()
    assert plain.sha256() != recipes.resolve(tiny_document, overrides={"train.seed": 4}).sha256()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"none.yaml: no such recipe \(expected: one of: .*\)\. Fix: name one of them"),
        ("a: [", r"none.yaml: not readable as YAML .* \(expected: YAML\)\. Fix: correct it"),
        ("- a", r"none.yaml: holds a list \(expected: a YAML mapping\)\. Fix: mend the file"),
        ("name: other", r"none.yaml: name is 'other' \(expected: 'none'\)\. Fix: file and name go together"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "none.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipes.load(tmp_path / "none.yaml")


def test_every_form_field_has_bounds_and_help() -> None:
    for key in recipes.FORM.values():
        schema = recipes.field_schema(key)
        assert schema["description"] and ("type" in schema or "anyOf" in schema), key


def test_numbers_that_yaml_reads_as_text_are_told() -> None:
    assert yaml.safe_load("3e-4") == "3e-4", "the trap is still there"
    document = recipes.load(recipes.RECIPES / "ethos.yaml")
    assert recipes.resolve(recipes._lay_over(document, {"train": {"learning_rate": "3e-4"}})).train.learning_rate == 3e-4
