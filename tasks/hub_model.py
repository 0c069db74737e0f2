"""A base model from the Hugging Face Hub, by its own client: small files first, weights once those are found good."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tasks.cache import sha256_of
from tasks.errors import LoraflowError, RecipeError, ServiceError
from tasks.wheels import ShowProgress


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit."""

    commit: str
    sizes: dict[str, int]
    """File to bytes."""
    sha256: dict[str, str]
    """Large files to checksum."""


def listing(name: str, revision: str | None) -> Listing:
    """Ask the Hub (`HF_ENDPOINT`, `HF_TOKEN`) for a repository's files.

    Raises:
        RecipeError: no such repository or revision, or no access to it.
        ServiceError: the Hub was not to be had.
    """
    with _faults(name, revision):
        from huggingface_hub import HfApi

        info = HfApi(token=_token()).model_info(name, revision=revision, files_metadata=True)
    files = info.siblings or []
    large = {file.rfilename: file.lfs.sha256 for file in files if file.lfs}
    return Listing(str(info.sha), {file.rfilename: file.size or 0 for file in files}, large)


def build(
    name: str,
    found: Listing,
    folder: Path,
    small: tuple[str, ...],
    check: Callable[[Path], list[str]],
    progress: ShowProgress,
) -> None:
    """Fetch a model into a folder; what an earlier attempt brought of the same commit stays.

    Args:
        name: owner/name.
        found: its files.
        folder: where they are put.
        small: patterns of the files that come before the weights.
        check: looks at these and returns the names of the weight files.
        progress: shows the transfers.
    """
    first = [file for file in found.sizes if "/" not in file and any(fnmatch(file, pattern) for pattern in small)]
    _fetch(name, found, first, folder, "tokenizer and configuration", progress)
    weights = check(folder)
    missing = [file for file in weights if file not in found.sizes]
    if missing:
        raise RecipeError(f"{name} on the Hub", f"has no {missing[0]}", "safetensors weights expected", "choose another base model")
    _fetch(name, found, weights, folder, "weights", progress)


def _fetch(name: str, found: Listing, files: list[str], folder: Path, what: str, progress: ShowProgress) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    total, done = sum(found.sizes[file] for file in files), 0
    with progress(f"fetch {what} of {name}", total // 1000, "kB") as bar:

        class Bar(tqdm):  # type: ignore[misc]
            """Hands the client's progress on to the step's."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})
                self.update(kwargs.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                nonlocal done
                done += int(n or 0)
                bar.reach(done // 1000)

        for file in files:
            before = done
            with _faults(name, found.commit):
                path = Path(hf_hub_download(name, file, revision=found.commit, local_dir=folder, token=_token(), tqdm_class=Bar))
            done = before + found.sizes[file]
            bar.reach(done // 1000)
            if file in found.sha256 and sha256_of(path) != found.sha256[file]:
                path.unlink()
                raise ServiceError(f"{name} on the Hub", f"{file} came damaged", f"sha256 {found.sha256[file]} expected", "fetch it again")


def _token() -> str | bool:
    """The token of the environment, and no other that lies around on this machine."""
    return os.environ.get("HF_TOKEN") or False


@contextmanager
def _faults(name: str, revision: str | None) -> Iterator[None]:
    """The client's errors as ours. Their texts hold addresses and advice of many lines: ours say it in one."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    where = f"{name} on the Hub"
    try:
        yield
    except errors.GatedRepoError:
        raise RecipeError(where, "gated", "access expected", "ask for it on the model's page and set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise RecipeError(where, f"no revision {revision}", "a commit, branch or tag expected", "correct base_model.revision") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise RecipeError(
            where, "no such model, or a private one", "a model that HF_TOKEN may read expected", "correct base_model.name"
        ) from None
    except errors.RemoteEntryNotFoundError as error:
        raise RecipeError(where, str(error).splitlines()[0], "the file expected", "choose another revision") from None
    except (
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.FileMetadataError,
        HTTPError,
    ) as error:
        raise _unreached(where, error) from None


def _unreached(where: str, error: Exception) -> LoraflowError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return RecipeError(where, f"HTTP {status}", "access expected", "set HF_TOKEN to a token that may read it")
    found = f"HTTP {status}" if status else f"not reached ({(str(error) or type(error).__name__).splitlines()[0]})"
    return ServiceError(
        where, found, "an answer of the Hub expected",
        "check the network and HF_ENDPOINT, or name a commit that the model cache holds in base_model.revision",
    )  # fmt: skip
