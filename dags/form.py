"""The trigger form and the page of a recipe's DAG, both made from the recipe file.

Types, bounds and help texts are those of the recipe's keys; the values shown are the recipe's own in the default profile.
A field that is left as shown sets nothing, so that another profile brings its own values along.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, get_args

from airflow.sdk import Param

from tasks import recipe as recipes
from tasks.errors import RecipeError, RecipeErrors
from tasks.recipe import FORM
from tasks.schema import Recipe
from tasks.settings import settings

PROFILES: tuple[str, ...] = get_args(Recipe.model_fields["profile"].annotation)
SECTIONS = {"run": "This run", "base_model": "Training", "lora": "Training", "train": "Training", "sweep": "Grid"}
PROFILE_HELP = "full: the recipe's own settings; local: its keys for a laptop laid over them. A field left as shown follows the profile."

HEAD = """
{description}

| | |
|---|---|
| Kind of task | {kind} |
| Language | {language} |
| Base model | {base_model} |
| Data | {source} |
| Licence of the data | {data_licence} |
| Licence of the base model | {model_licence} |
| Recipe file | `{path}` |

**The form.** It shows the recipe's values in profile `{profile}`. A field that is left as shown sets nothing: choose another profile and
its own values count. What you change is laid over the recipe and checked as a whole by `start`, before anything is downloaded.
"""
RETRAIN = """
An empty *rows* means all training rows, an empty *steps* means that *epochs* counts. *Rows* and *seed* act in `train`
and never make a new data version.

**Runs** of this recipe queue, one after the other. With *promotion* `manual` the run waits at `approve` for at most
{approval_hours:g} hours; no answer means no.
"""


@dataclass(frozen=True)
class Form:
    """A recipe as its trigger form shows it.

    Attributes:
        document: the recipe file as it stands.
        recipe: the recipe in the default profile, whose values the form shows.
        other: the recipe in the other profile.
        fields: the form's fields and the recipe keys that they set.
    """

    path: Path
    document: Mapping[str, Any]
    recipe: Recipe
    other: Recipe
    fields: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, fields: Mapping[str, str] = FORM) -> Self:
        """The form of a recipe file.

        Args:
            path: the file.
            fields: which keys of the recipe the form shows.

        Raises:
            RecipeError: the file is faulty in one of the profiles.
        """
        document = recipes.load(path)
        profile = settings().profile
        other = next(name for name in PROFILES if name != profile)
        both = (recipes.resolve(document, name, where=path.name) for name in (profile, other))
        return cls(path, document, *both, fields=fields)

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    def defaults(self) -> dict[str, Any]:
        """The values that the form shows."""
        return {"profile": self.recipe.profile, **{field: _shown(self.recipe, key) for field, key in self.fields.items()}}

    def params(self) -> dict[str, Param]:
        """The form's fields."""
        profile = Param(
            self.recipe.profile, type="string", enum=list(PROFILES), title="Profile", section="This run", description=PROFILE_HELP
        )
        return {"profile": profile, **{field: self._param(field, key) for field, key in self.fields.items()}}

    def _param(self, field: str, key: str) -> Param:
        shown, elsewhere = (_shown(recipe, key) for recipe in (self.recipe, self.other))
        schema = dict(_schema(key))
        text = schema.pop("description")
        text += "" if shown == elsewhere else f" In profile {self.other.profile}: {'empty' if elsewhere is None else elsewhere}."
        section = SECTIONS[key.partition(".")[0]]
        return Param(shown, title=field.replace("_", " ").capitalize(), section=section, description=text, **schema)

    def resolve(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with the form's values laid over it; what is left as shown sets nothing.

        Raises:
            RecipeErrors: with every fault found.
        """
        shown = self.defaults()
        if unknown := [name for name in values if name not in shown]:
            raise RecipeErrors([_unknown(self.path.name, name, shown) for name in unknown])
        overrides = {self.fields[field]: value for field, value in values.items() if field != "profile" and value != shown[field]}
        return recipes.resolve(self.document, values.get("profile", shown["profile"]), overrides, where=self.path.name)

    def page(self, more: str = RETRAIN) -> str:
        """The documentation of the recipe's DAG, in Markdown.

        Args:
            more: what is said of the DAG besides what holds for every one.
        """
        recipe, source = self.recipe, self.recipe.data.source
        base_model, elsewhere = (f"`{each.base_model.name}`" for each in (recipe, self.other))
        base_model += "" if base_model == elsewhere else f"; in profile `{self.other.profile}` {elsewhere}"
        return (HEAD + more).format(
            description=recipe.description,
            kind=recipe.kind.replace("_", " "),
            language=recipe.language,
            base_model=base_model,
            source=source.url or source.hub or source.pypi or source.file or f"`{source.mirror}` below `LORAFLOW_MIRROR`",
            data_licence=recipe.licence.data,
            model_licence=recipe.licence.base_model,
            path=self.path.name,
            profile=recipe.profile,
            approval_hours=recipe.run.approval_hours,
        )


def sound_forms(name: str | None = None, fields: Mapping[str, str] = FORM) -> Iterator[Form]:
    """The forms of the recipe files that are without fault; of one recipe where it is named."""
    for found in _read_all(name, fields):
        if isinstance(found, Form):
            yield found


def faults_of_recipes() -> list[RecipeError]:
    """The faults of the other recipe files, each naming its file."""
    broken = [found for found in _read_all() if isinstance(found, RecipeError)]
    return [fault for error in broken for fault in (error.errors if isinstance(error, RecipeErrors) else [error])]


def _read_all(name: str | None = None, fields: Mapping[str, str] = FORM) -> Iterator[Form | RecipeError]:
    for path in recipes.recipe_files(settings().recipes):
        if name not in (None, path.stem):
            continue
        try:
            yield Form.read(path, fields)
        except RecipeError as error:
            yield error


def _shown(recipe: Recipe, key: str) -> Any:
    """A recipe's value as JSON has it."""
    value = recipes.lookup(recipe, key)
    return list(value) if isinstance(value, tuple) else value


@cache
def _schema(key: str) -> dict[str, Any]:
    """JSON schema of a recipe key as Airflow's form understands it: an optional value is a list of types."""
    schema = recipes.field_schema(key)
    options = schema.pop("anyOf", None)
    if options is None:
        return schema
    (given,) = [option for option in options if option["type"] != "null"]
    return {**schema, **given, "type": [given["type"], "null"]}


def _unknown(where: str, name: str, fields: Mapping[str, Any]) -> RecipeError:
    near = difflib.get_close_matches(name, list(fields), n=1)
    return RecipeError(
        where, f"{name} is no field of the form", remedy=f"did you mean {near[0]}?" if near else f"one of: {', '.join(fields)}"
    )
