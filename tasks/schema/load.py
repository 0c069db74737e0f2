"""A recipe: one YAML file that says what to fine-tune on which data, and how to judge it.

`load` reads the file, `resolve` lays the profile and the trigger form's values over it and checks the whole against
`schema`, all faults in one report. Knows nobody but `schema`, `strict_yaml` and `errors`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import strict_yaml
from tasks.schema.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"

LAYERS = ("published", "local")
"""Keys of a recipe file that hold other keys: what is laid over the recipe where it is asked for."""

FORM = {
    "data": "run.data",
    "base_model": "base_model.name",
    "rows": "train.rows",
    "epochs": "train.num_train_epochs",
    "steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "rank": "lora.r",
    "seed": "train.seed",
    "promotion": "run.promotion",
    "push": "run.push",
}
"""Fields of a retraining's trigger form and the recipe keys they set; the form's bounds and help are those keys' own."""

SWEEP_FORM = {
    "data": "run.data",
    "base_model": "base_model.name",
    "sizes": "sweep.rows",
    "epochs": "sweep.epochs",
    "repeat_size": "sweep.repeat_rows",
    "repeat_seeds": "sweep.repeat_seeds",
    "learning_rate": "train.learning_rate",
    "rank": "lora.r",
    "seed": "train.seed",
}
"""Fields of a sweep's trigger form, likewise."""


def recipe_files(folder: Path = RECIPES) -> list[Path]:
    """The recipe files below a folder, sorted."""
    return sorted(folder.rglob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    """Read a recipe file as it stands.

    Raises:
        RecipeError: the file is not there, is not YAML, holds a key twice, or is not a mapping.
    """
    try:
        document = read_yaml(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        known = ", ".join(file.stem for file in recipe_files(path.parent)) or "none"
        raise RecipeError(path.name, "no such recipe", f"one of: {known}", "name one of them") from None
    except UnicodeDecodeError as error:
        raise RecipeError(path.name, f"not readable as YAML ({error})", "text in UTF-8", "correct the file") from None
    if not isinstance(document, dict):
        raise RecipeError(path.name, f"holds a {type(document).__name__}", "a YAML mapping", "mend the file")
    if document.get("name") != path.stem:
        raise RecipeError(path.name, f"name is {document.get('name')!r}", f"{path.stem!r}", "file and name go together")
    return document


def resolve(
    document: Mapping[str, Any], profile: str = "full", overrides: Mapping[str, Any] | None = None, *, where: str | None = None
) -> Recipe:
    """The recipe for a profile, with single keys replaced.

    Args:
        document: what `load` returned.
        profile: `local` lays the recipe's `local` keys over it; before them `as_published` lays its `published` keys over it.
        overrides: dotted key → value, laid over last.
        where: the file's name in error messages.

    Raises:
        RecipeErrors: with every fault found.
    """
    where, overrides = where or f"{document.get('name', 'recipe')}.yaml", overrides or {}
    whole = {key: value for key, value in document.items() if key not in LAYERS}
    layers = ["published"] if overrides.get("as_published", document.get("as_published")) else []
    for layer in [*layers, *(["local"] if profile == "local" else [])]:
        whole = _lay_over(whole, document.get(layer) or {})
    for key, value in overrides.items():
        whole = _lay_over(whole, _nest(key, value))
    try:
        return Recipe.model_validate({**whole, "profile": profile})
    except ValidationError as error:
        raise RecipeErrors([_explain(where, fault) for fault in error.errors()]) from None


def read(path: Path) -> Recipe:
    """A resolved recipe that `dump` wrote, from its file."""
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, where: str) -> Recipe:
    """A resolved recipe that `dump` wrote; `where` names it in messages."""
    document = read_yaml(text, where)
    return resolve(document, document.get("profile", "full"), where=where)


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        text: of a file, or what was typed after `--set KEY=`.
        where: what it is, in messages.

    Raises:
        RecipeErrors: a key stands twice in a mapping, with every such key.
        RecipeError: it is not YAML.
    """
    try:
        return strict_yaml.load(text)
    except strict_yaml.RepeatedKeysError as error:
        raise RecipeErrors([RecipeError(where, fault, "one value for each key", "keep one of them") for fault in error.faults]) from None
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise RecipeError(where, f"not readable as YAML ({detail})", "YAML", "correct it") from None


def lookup(recipe: Recipe, key: str) -> Any:
    """Value at a dotted key."""
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def field_schema(key: str) -> dict[str, Any]:
    """JSON schema (type, bounds, description) of a dotted key."""
    node = schema = _whole_schema()
    for part in key.split("."):
        node = node["properties"][part]
        if sections := [form["$ref"] for form in (node, *node.get("anyOf", ())) if "$ref" in form]:
            node = schema["$defs"][sections[0].rsplit("/", 1)[-1]]
    return {key: value for key, value in node.items() if key not in ("title", "default")}


@cache
def field_type(key: str) -> TypeAdapter[Any]:
    """Type and bounds of a dotted key, to check a single value by."""
    *sections, name = key.split(".")
    (field,) = [model.model_fields[name] for model in _models(sections)]
    return TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]  # mypy knows no type made at run time


@cache
def _whole_schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _lay_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _lay_over(result[key], value) if both else value
    return result


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value) if rest else value}


def _explain(where: str, fault: Any) -> RecipeError:
    """One pydantic fault in the house's words."""
    path, section, known = _walk([str(part) for part in fault["loc"]])
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], known, n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
        return RecipeError(where, f"{key} is not a key of {section or 'the recipe'}", remedy=remedy)
    if fault["type"] == "missing":
        return RecipeError(where, f"{key} is missing", "a value", "add it")
    if fault["type"].startswith("union_tag"):
        found = f"{key}.{fault['ctx']['discriminator'].strip(chr(39))} is {fault['ctx'].get('tag', 'missing')!r:.80}"
        return RecipeError(where, found, f"one of {', '.join(_tags(_models(path)))}", "correct it")
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return RecipeError(where, f"{key}: {message}" if key else message)
    expected = message.removeprefix("Input should be ")
    return RecipeError(where, f"{key} is {fault['input']!r:.80}", expected[0].lower() + expected[1:], "correct the value")


def _walk(path: list[str]) -> tuple[list[str], str, list[str]]:
    """The keys of a fault's place without the names that tell the forms of a section apart, the section, and the keys it may have."""
    keys: list[str] = []
    models: list[type[BaseModel]] = [Recipe]
    before = models
    for part in path:
        if tagged := [model for model in models if len(models) > 1 and part in _tags([model])]:
            models = tagged
        else:
            keys.append(part)
            before, models = models, [] if part.isdecimal() else _below(models, part)
    known = [found.alias or name for model in before for name, found in model.model_fields.items()]
    return keys, ".".join(keys[:-1]), known + (list(LAYERS) if before == [Recipe] else [])


def _models(path: list[str]) -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        models = _below(models, part)
    return models


def _below(models: list[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    """The sections that may stand at a key of these."""
    found = [field for model in models for name, field in model.model_fields.items() if key in (name, field.alias)]
    return [model for field in found for model in _sections(field.annotation)]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _sections(part)]


def _tags(models: list[type[BaseModel]]) -> list[str]:
    """What tells the forms of a section apart: the one value that their key `by` may have."""
    return [get_args(model.model_fields["by"].annotation)[0] for model in models if "by" in model.model_fields]
