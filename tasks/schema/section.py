"""A block of a recipe: what all of them share. Knows nobody."""

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A block of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="after")
    def _without_problems(self) -> Self:
        if found := next(self._problems(), None):
            raise ValueError(found)
        return self

    def _problems(self) -> Iterator[str]:
        """What does not fit between the keys: found, expected; what to do. The first is told."""
        yield from ()
