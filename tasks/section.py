"""A block of a recipe: what all of them share. Knows nobody."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A block of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
