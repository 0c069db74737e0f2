"""What is looked at: an installation, a recipe in it, or a run of that recipe. Knows nobody but the recipe and the settings."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.contracts import STEPS
from tasks.schema.recipe import Recipe
from tasks.settings import Settings


@dataclass(frozen=True)
class Scope:
    """What the checks are done for.

    Attributes:
        settings: the settings.
        recipe: whose run is to be; None where the installation alone is looked at.
        place: folder or URL that holds the runs, or the one run.
    """

    settings: Settings
    recipe: Recipe | None
    place: str

    def here(self, *steps: str) -> bool:
        """Whether one of these steps, or any step at all, runs on this machine and not in a pod of its own."""
        if self.settings.runner == "local":
            return True
        return self.recipe is not None and any(not self.recipe.pods.take(step) for step in steps or STEPS)

    @property
    def new_data(self) -> bool:
        """Whether the run makes new data; without a recipe some run will."""
        return self.recipe is None or self.recipe.run.data == "new"

    @property
    def publishes(self) -> bool:
        """Whether the run may publish its model."""
        return self.recipe is None or (self.recipe.run.push and self.recipe.run.promotion != "never")


def scheme(place: str) -> str:
    """What a URL begins with; empty for a folder."""
    return urlsplit(place).scheme if "://" in place else ""
