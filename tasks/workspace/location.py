"""Which folder or URL a run has, and what keeps its files there."""

import hashlib
import re
from pathlib import Path
from typing import overload

from tasks.errors import RecipeError
from tasks.settings import local_folder
from tasks.workspace.bucket import ObjectStore
from tasks.workspace.folder import Folder
from tasks.workspace.storage import Storage


@overload
def run_folder(runs: Path, recipe_name: str, run_id: str) -> Path: ...


@overload
def run_folder(runs: Path | str, recipe_name: str, run_id: str) -> Path | str: ...


def run_folder(runs: Path | str, recipe_name: str, run_id: str) -> Path | str:
    """Place of a run; whatever the run id holds, it is one folder below the recipe's.

    Args:
        runs: folder or URL of the workspace.
        recipe_name: of the run's recipe.
        run_id: name of the run, as Airflow or a user made it.

    Raises:
        RecipeError: recipe_name is no recipe's name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", recipe_name):
        raise RecipeError("run", f"recipe is {recipe_name!r:.60}", "lower-case letters, digits and _", "name a recipe")
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip(".-")
    if plain != run_id or not plain or len(plain) > 120:
        plain = f"{plain[:100] or 'run'}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return runs / recipe_name / plain if isinstance(runs, Path) else f"{runs.rstrip('/')}/{recipe_name}/{plain}"


def storage_at(place: Path | str) -> Storage:
    """The place of a run, by folder or URL."""
    if isinstance(place, Path):
        return Folder(place)
    if folder := local_folder(place):
        return Folder(folder)
    return ObjectStore(place)
