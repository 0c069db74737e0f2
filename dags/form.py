"""The trigger form and the page of a recipe's DAG, as Airflow shows them; `tasks/schema/form.py` says what the fields mean."""

from collections.abc import Iterator, Mapping
from typing import Any

from airflow.sdk import Param

from tasks.errors import RecipeError, RecipeErrors
from tasks.schema import load as recipes
from tasks.schema.form import PROFILES, Field, Form
from tasks.schema.load import FORM
from tasks.settings import settings

SECTIONS = {"run": "This run", "base_model": "Training", "lora": "Training", "train": "Training", "sweep": "Grid"}
PROFILE_HELP = "full: the recipe's own settings; local: its keys for a laptop laid over them. An empty field below follows the profile."

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

**The form.** Every field but *profile* starts empty. An empty field means the recipe's value in the chosen profile; the help below the
field shows it. Any other value counts, even if it equals the recipe's. `start` checks all values together before anything is downloaded.
"""
RETRAIN = """
*Rows* `all` means all training rows, *steps* `none` means that *epochs* counts. *Rows* and *seed* act in `train` and never make a new
data version.

**Runs** of this recipe queue, one after the other. With *promotion* `manual` the run waits at `approve` for at most
{approval_hours:g} hours; no answer means no.
"""


def params(form: Form) -> dict[str, Param]:
    """The form's fields."""
    profile = Param(form.profile, type="string", enum=list(PROFILES), title="Profile", section="This run", description=PROFILE_HELP)
    return {"profile": profile, **{name: _param(form, field) for name, field in form.fields.items()}}


def _param(form: Form, field: Field) -> Param:
    """A field that is empty, and whose help says what that means in each profile.

    Numbers are typed into text fields: Airflow's number field silently turns 2e-4, 1,000 and whatever is out of bounds into another
    number. A list of types that starts with string is a text field only with `examples`, which the field offers; the other types are
    REST's.
    """
    values = {profile: field.shown(recipe) for profile, recipe in form.in_profile.items()}
    same = len(set(values.values())) == 1
    if_empty = values[form.profile] if same else "; ".join(f"{value} in profile {profile}" for profile, value in values.items())
    sentences = [field.schema["description"], f"If empty: {if_empty}."]
    schema: dict[str, Any] = {"title": field.name.replace("_", " ").capitalize(), "section": SECTIONS[field.key.partition(".")[0]]}
    if choices := field.schema.get("enum"):
        schema |= {"type": ["string", "null"], "enum": [None, *choices], "values_display": {"null": "the recipe's value"}}
    else:
        if field.schema["type"] != "string":
            sentences.insert(1, f"{field.expected[0].upper()}{field.expected[1:]}.")
        offered = [*dict.fromkeys(values.values()), *field.schema.get("examples", ()), *([field.none] if field.none else ())]
        bounds = {key: field.schema[key] for key in ("minimum", "exclusiveMinimum", "maximum", "items", "maxItems") if key in field.schema}
        types = list(dict.fromkeys(["string", field.schema["type"], "null"]))
        schema |= {"type": types, "examples": list(dict.fromkeys(offered)), "pattern": field.pattern, **bounds}
    return Param(None, description=" ".join(sentences), schema={"expected": field.expected, **schema})  # a refusal shows the schema


def page(form: Form, more: str = RETRAIN) -> str:
    """The documentation of the recipe's DAG, in Markdown.

    Args:
        form: the recipe's form.
        more: what is said of the DAG besides what holds for every one.
    """
    recipe, source = form.recipe, form.recipe.data.source
    base_models = {profile: f"`{each.base_model.name}`" for profile, each in form.in_profile.items()}
    others = [f"in profile `{profile}` {name}" for profile, name in base_models.items() if name != base_models[form.profile]]
    return (HEAD + more).format(
        description=recipe.description,
        kind=recipe.kind.replace("_", " "),
        language=recipe.language,
        base_model="; ".join([base_models[form.profile], *others]),
        source=source.url or source.hub or source.pypi or source.file or f"`{source.mirror}` below `LORAFLOW_MIRROR`",
        data_licence=recipe.licence.data,
        model_licence=recipe.licence.base_model,
        path=form.path.name,
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
