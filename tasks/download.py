"""Fetch the base model and the data files, checked before anything is built on them.

Reads   nothing
Uses    base_model.*, data.source, data.test.source, run.data   of the recipe; labels and prompt for the check
Writes  Download   runs/<recipe>/<run>/download.json
"""

from functools import partial

from tasks.contracts import BaseModelFiles, Download, SourceFile
from tasks.fetch.base_checks import check_base
from tasks.fetch.base_models import Base, fetch_base, place
from tasks.fetch.cache import say
from tasks.fetch.data_files import fetch_source, prefetch_source
from tasks.fetch.packages import ShowProgress
from tasks.schema.data import Source
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tasks.workspace.disk import disk_faults
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run


def download(run: Run) -> Download:
    """Fetch the base model, its tokenizer checked against the labels first, and the data files where the run makes new data."""
    recipe, progress = run.recipe, partial(Progress, run, "download")
    base = _fetch_base(recipe, progress)
    place(base, run.attempt / "base_model")
    model = BaseModelFiles(recipe.base_model.name, base.revision, run.relative(run.attempt / "base_model"))
    if recipe.run.data != "new":
        say(f"no data file: the run uses the data version {recipe.run.data}")
        return Download(model, None)
    source = _fetch_data(run, recipe.data.source, "source")
    return Download(model, source, _fetch_data(run, recipe.data.test.source, "test_source") if recipe.data.test else None)


def _fetch_data(run: Run, source: Source, folder: str) -> SourceFile:
    found = fetch_source(source, run.attempt / folder, partial(Progress, run, "download"))
    return SourceFile(found.origin, run.relative(found.path), found.sha256, found.bytes)


def prefetch(recipe: Recipe) -> None:
    """Bring a recipe's base model and data files into the caches, so that the runs to come need no network for them."""
    progress = partial(Progress, None, "download")
    with disk_faults(settings().home):
        _fetch_base(recipe, progress)
        for table in recipe.data.tables():
            say(f"data ready from {prefetch_source(table.source, progress)}")


def _fetch_base(recipe: Recipe, progress: ShowProgress) -> Base:
    return fetch_base(recipe.base_model.name, recipe.base_model.revision, partial(check_base, recipe), progress)
