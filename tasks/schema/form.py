"""The trigger form of a recipe: its fields, and what their values mean.

Every field but `profile` starts empty. An empty field means the recipe's own value in the chosen profile; any other value counts, whether
it was typed into Airflow's form, sent by REST or given as `loraflow retrain --param`. Imports nothing from Airflow.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self, get_args

from pydantic import ValidationError

from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import load as recipes
from tasks.schema.load import FORM
from tasks.schema.recipe import Recipe
from tasks.settings import settings

PROFILES: tuple[str, ...] = get_args(Recipe.model_fields["profile"].annotation)

NONE = {"rows": ("all", None), "steps": ("none", None), "repeat_size": ("none", None), "repeat_seeds": ("none", ())}
"""Fields whose recipe key may have no value: the word for that, since an empty field means the recipe's value."""

WHOLE = r"(?:0|[1-9][0-9]*)"
DECIMAL = rf"(?:{WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
SPELLINGS = {
    "integer": WHOLE,
    "number": DECIMAL,
    "array": rf"(?:{WHOLE}(?:,\s+{WHOLE})*|\[(?:{WHOLE}(?:,\s*{WHOLE})*)?\])",
    "boolean": r"(?i:yes|no|true|false)",
}
"""JSON type of a recipe key → the texts that are read as a value of it. A text that can be read in two ways is not among them: 1,200
may be one number or two, and 010 is 8 to YAML."""

PERHAPS_THOUSANDS = r"[1-9][0-9]{0,2}\.[0-9]{3}"
"""Decimals that many languages write for thousands."""

RATE_FACTOR = 10
"""A learning rate this many times higher or lower than the recipe's is reported."""

REMEDIES = {
    "integer": "write digits only, such as 1000",
    "number": "write it with a decimal point, such as 0.5 or 2e-4",
    "array": "write digits only, and a comma with a blank between two numbers, such as 200, 1000",
}


class Field:
    """A field of the form.

    Args:
        form: the form's name in messages.
        name: the field's name.
        key: the recipe key that it sets.
    """

    def __init__(self, form: str, name: str, key: str) -> None:
        self.form, self.name, self.key = form, name, key
        schema = recipes.field_schema(key)
        options = [option for option in schema.pop("anyOf", ()) if option["type"] != "null"]
        self.schema: dict[str, Any] = {**schema, **(options[0] if options else {})}
        """JSON schema of a value that is not empty."""
        self.none, self._none_value = NONE.get(name, ("", None))

    @property
    def pattern(self) -> str:
        """Regular expression of the texts that the field takes, an empty one among them."""
        texts = "|".join(self.schema.get("enum", [])) or self.schema.get("pattern", "").removeprefix("^").removesuffix("$")
        spelling = SPELLINGS.get(self.schema["type"], texts)
        return rf"^\s*(?:{spelling}{f'|{self.none}' if self.none else ''})?\s*$"

    @property
    def expected(self) -> str:
        """What the field takes, in words."""
        schema = self.schema
        if "enum" in schema:
            return _any_of(schema["enum"])
        words = {
            "boolean": "yes or no",
            "integer": f"a whole number {_range(schema)}",
            "number": f"a number {_range(schema)}",
            "array": f"up to {schema.get('maxItems')} whole numbers {_range(schema.get('items', {}))}, separated by a comma and a blank",
            "string": f"a value such as {_any_of(schema.get('examples', []))}",
        }
        return words[schema["type"]] + (f" or the word {self.none}" if self.none else "")

    def shown(self, recipe: Recipe) -> str:
        """A recipe's value as a user would type it."""
        return self.text(recipes.lookup(recipe, self.key))

    def text(self, value: Any) -> str:
        """A value as a user would type it."""
        if value == self._none_value and self.none:
            return self.none
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    def parse(self, value: Any) -> Any:
        """The value that a text or a JSON value means.

        Args:
            value: what was entered, not empty.

        Raises:
            RecipeError: it has no meaning, more than one, or is out of bounds.
        """
        typed = self._read(value, value.strip()) if isinstance(value, str) else value
        if typed == self._none_value and self.none:
            return typed
        try:
            return recipes.field_type(self.key).validate_json(json.dumps(typed), strict=True)
        except ValidationError:
            self._refuse(value, "correct the value")

    def _read(self, value: str, text: str) -> Any:
        kind = self.schema["type"]
        if self.none and text == self.none:
            return self._none_value
        if kind == "number" and re.fullmatch(PERHAPS_THOUSANDS, text):
            whole, _, rest = text.partition(".")
            near = f"{whole}.{rest.rstrip('0')}".rstrip(".")
            self._refuse(value, f"this may mean {near} or {whole}{rest}: write one of them")
        if kind in SPELLINGS and not re.fullmatch(SPELLINGS[kind], text):
            self._refuse(value, REMEDIES.get(kind, "correct the value"))
        convert: Mapping[str, Callable[[str], Any]] = {"integer": int, "number": float, "array": _numbers, "boolean": _is_yes}
        try:
            return convert.get(kind, str)(text)
        except ValueError:  # more digits than Python reads
            self._refuse(value, "correct the value")

    def _refuse(self, value: Any, remedy: str) -> NoReturn:
        raise RecipeError(self.form, f"{self.name} is {value!r:.80}", self.expected, remedy)


@dataclass(frozen=True)
class Form:
    """A recipe as its trigger form shows it.

    Attributes:
        path: the recipe's file.
        document: the file as it stands.
        profile: the profile of a run that names none.
        in_profile: the recipe in each profile.
        fields: the form's fields by name, without `profile`.
    """

    path: Path
    document: Mapping[str, Any]
    profile: str
    in_profile: Mapping[str, Recipe]
    fields: Mapping[str, Field]

    @classmethod
    def read(cls, path: Path, fields: Mapping[str, str] = FORM) -> Self:
        """The form of a recipe file.

        Args:
            path: the file.
            fields: the form's fields and the recipe keys that they set.

        Raises:
            RecipeError: the file is faulty in one of the profiles.
        """
        document = recipes.load(path)
        in_profile = {name: recipes.resolve(document, name, where=path.name) for name in PROFILES}
        where = f"trigger form of {path.stem}"
        return cls(path, document, settings().profile, in_profile, {name: Field(where, name, key) for name, key in fields.items()})

    @property
    def recipe(self) -> Recipe:
        """The recipe in the profile of a run that names none."""
        return self.in_profile[self.profile]

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    def fill(self, values: Mapping[str, Any]) -> "FilledForm":
        """The form with values for its fields: a text, a JSON value, or none for the recipe's own.

        Raises:
            RecipeErrors: with every fault found.
        """
        faults, entered, profile = list(self._unknown(values)), {}, self.profile
        for name, value in values.items():
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            try:
                if name == "profile":
                    profile = self._choose(value)
                elif name in self.fields:
                    entered[name] = self.fields[name].parse(value)
            except RecipeError as fault:
                faults.append(fault)
        if faults:
            raise RecipeErrors(faults)
        overrides = {self.fields[name].key: value for name, value in entered.items()}
        return FilledForm(self, profile, entered, recipes.resolve(self.document, profile, overrides, where=self.path.name))

    def _unknown(self, values: Mapping[str, Any]) -> Iterator[RecipeError]:
        known = ["profile", *self.fields]
        for name in values.keys() - set(known):
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}"
            yield RecipeError(f"trigger form of {self.name}", f"{name} is not a field", remedy=remedy)

    def _choose(self, value: Any) -> str:
        for profile in PROFILES:
            if isinstance(value, str) and value.strip() == profile:
                return profile
        expected = _any_of(PROFILES)
        raise RecipeError(f"trigger form of {self.name}", f"profile is {value!r:.80}", expected, "correct the value")


@dataclass(frozen=True)
class FilledForm:
    """A form with values.

    Attributes:
        form: the form.
        profile: the chosen profile.
        entered: the values that were given, by field.
        recipe: the recipe of the profile with these values.
    """

    form: Form
    profile: str
    entered: Mapping[str, Any]
    recipe: Recipe

    @cached_property
    def _usual(self) -> Recipe:
        return self.form.in_profile[self.profile]

    def conf(self) -> dict[str, str]:
        """The values as a run of Airflow takes them."""
        return {"profile": self.profile, **{name: self.form.fields[name].text(value) for name, value in self.entered.items()}}

    def sources(self) -> Iterator[str]:
        """Where the values of the fields come from, a line for each source."""
        fields = self.form.fields
        entered = ", ".join(f"{name} = {fields[name].text(value)}" for name, value in self.entered.items())
        others = ", ".join(f"{name} = {field.shown(self._usual)}" for name, field in fields.items() if name not in self.entered)
        yield f"values given for this run: {entered or 'none'}"
        yield f"values of the recipe in profile {self.profile}: {others or 'none'}"

    def warnings(self) -> Iterator[str]:
        """What the run does as asked, and its user may not have meant."""
        rate, usual = self.recipe.train.learning_rate, self._usual.train.learning_rate
        times = max(rate / usual, usual / rate)
        if times >= RATE_FACTOR * (1 - 1e-9):  # 3e-3 / 3e-4 is a little less than 10
            yield (
                f"learning_rate is {rate}, {times:,.0f} times {'higher' if rate > usual else 'lower'} than the recipe's {usual} in profile "
                f"{self.profile}. The run continues with it. If this is a typing error, stop the run and start another."
            )


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f"above {low}" + ("" if high is None else f" and up to {high}")
    return f"of at least {low}" if high is None else f"from {low} to {high}"


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(WHOLE, text)]


def _is_yes(text: str) -> bool:
    return text.lower() in ("yes", "true")
