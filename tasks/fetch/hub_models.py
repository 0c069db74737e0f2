"""A base model from the Hugging Face Hub, by its own client: small files, and weights."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from tasks.errors import ServiceError
from tasks.fetch.cache import sha256_of
from tasks.fetch.hub import MODEL, faults, fetch_file, token
from tasks.fetch.packages import ShowProgress
from tasks.workspace.progress import Progress


@dataclass(frozen=True)
class RepositoryFiles:
    """What a repository holds at a commit."""

    commit: str
    sizes: dict[str, int]
    """File to bytes."""
    sha256: dict[str, str]
    """Large files to checksum."""


def listing(name: str, revision: str | None) -> RepositoryFiles:
    """Ask the Hub (`HF_ENDPOINT`, `HF_TOKEN`) for a repository's files.

    Raises:
        RecipeError: no such repository or revision, or no access to it.
        ServiceError: the Hub was not to be had.
    """
    with faults(MODEL, name, revision):
        from huggingface_hub import HfApi

        info = HfApi(token=token()).model_info(name, revision=revision, files_metadata=True)
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):  # it becomes part of a folder's name
        raise ServiceError(f"{name} on the Hub", f"names {str(info.sha)!r:.60} as its commit", "a hash", "look at HF_ENDPOINT")
    files = info.siblings or []
    large = {file.rfilename: file.lfs.sha256 for file in files if file.lfs}
    return RepositoryFiles(str(info.sha), {file.rfilename: file.size or 0 for file in files}, large)


def fetch_small(name: str, found: RepositoryFiles, folder: Path, small: tuple[str, ...], progress: ShowProgress) -> None:
    """Fetch what belongs to a model beside its weights into a folder; what an earlier attempt brought of the same commit stays.

    Args:
        name: owner/name.
        found: its files.
        folder: where they are put.
        small: patterns of the files.
        progress: shows the transfers.
    """
    first = [file for file in found.sizes if "/" not in file and any(fnmatch(file, pattern) for pattern in small)]
    _fetch(name, found, first, folder, "tokenizer and configuration", progress)


def fetch_weights(name: str, found: RepositoryFiles, folder: Path, files: list[str], progress: ShowProgress) -> None:
    """Fetch a model's weight files into the folder, likewise."""
    _fetch(name, found, files, folder, "weights", progress)


def _fetch(name: str, found: RepositoryFiles, files: list[str], folder: Path, what: str, progress: ShowProgress) -> None:
    total, done = sum(found.sizes[file] for file in files), 0
    with progress(f"fetch {what} of {name}", total // 1000, "kB") as bar:
        for file in files:
            path = fetch_file(MODEL, name, found.commit, file, folder, partial(_reach, bar, done))
            done += found.sizes[file]
            bar.reach(done // 1000)
            if file in found.sha256 and sha256_of(path) != found.sha256[file]:
                path.unlink()
                raise ServiceError(f"{name} on the Hub", f"{file} came damaged", f"sha256 {found.sha256[file]}", "fetch it again")


def _reach(bar: Progress, before: int, done: int) -> None:
    bar.reach((before + done) // 1000)
