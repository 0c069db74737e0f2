"""The Hugging Face Hub's own client: one file of a repository at a commit, and its errors in our words."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks.errors import LoraflowError, RecipeError, ServiceError
from tasks.fetch.allowed_hosts import check_host
from tasks.secrets.redaction import in_one_line
from tasks.settings import header_value, settings


@dataclass(frozen=True)
class RepositoryType:
    """What is fetched from the Hub, and the recipe's keys that name it."""

    repo_type: str
    noun: str
    name_key: str
    revision_key: str
    file_remedy: str
    """What to do where the repository has no such file."""
    offline_remedy: str
    """What helps besides a network that works."""


MODEL = RepositoryType(
    "model", "model", "base_model.name", "base_model.revision", "choose another revision",
    "name a commit that the model cache holds in base_model.revision",
)  # fmt: skip
DATASET = RepositoryType(
    "dataset", "data set", "data.source.hub", "data.source.revision", "correct data.source.member",
    "give a copy in LORAFLOW_MIRROR",
)  # fmt: skip


def token() -> str | bool:
    """The token of the environment, and no other that lies around on this machine.

    Raises:
        SettingsError: it cannot be sent.
    """
    return header_value("HF_TOKEN") or False


def page(path: str) -> str:
    """Address of a page of the Hub, for a reader."""
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{path}"


def fetch_file(kind: RepositoryType, name: str, commit: str, file: str, folder: Path, reach: Callable[[int], None]) -> Path:
    """Fetch a file into a folder; a transfer that was cut, in this attempt or an earlier one, goes on where it stopped.

    Args:
        kind: model or data set.
        name: owner/name.
        commit: the commit.
        file: path inside the repository, and below the folder.
        folder: where it is put.
        reach: told the bytes that are there.

    Raises:
        RecipeError: no such repository, commit or file, or no access to it.
        ServiceError: the Hub was not to be had.
    """
    with faults(kind, name, commit):
        from huggingface_hub import hf_hub_download
        from tqdm import tqdm

        done = 0

        class Bar(tqdm):  # type: ignore[misc]
            """Hands the client's progress on to the step's."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})
                self.update(kwargs.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                nonlocal done
                done += int(n or 0)
                reach(done)

        return Path(hf_hub_download(name, file, repo_type=kind.repo_type, revision=commit, local_dir=folder, token=token(), tqdm_class=Bar))


def check_access(kind: RepositoryType, name: str, revision: str, file: str) -> None:
    """Ask for the head of a file: what a licence that was not accepted, or a token without the right, keep from us.

    Raises:
        RecipeError: no such repository, revision or file, or no access to it.
        ServiceError: the Hub was not to be had.
    """
    with faults(kind, name, revision):
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        get_hf_file_metadata(hf_hub_url(name, file, repo_type=kind.repo_type, revision=revision), token=token())


def tensor_names(name: str, commit: str, file: str) -> frozenset[str]:
    """Names of the weights in a safetensors file of a model, by its head.

    Raises:
        RecipeError: no such repository, commit or file, or no access to it.
        ServiceError: the Hub was not to be had.
    """
    with faults(MODEL, name, commit):
        from huggingface_hub import HfApi

        return frozenset(HfApi(token=token()).parse_safetensors_file_metadata(name, file, revision=commit).tensors)


@contextmanager
def faults(kind: RepositoryType, name: str, revision: str | None) -> Iterator[None]:
    """The client's errors as ours. Their texts hold addresses and advice of many lines: ours say it in one."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    where = f"{name} on the Hub"
    _guard()
    if settings().allowed_hosts:
        constants.HF_HUB_DISABLE_XET = True  # its transfers go by a client of their own, to hosts that only the server names
    try:
        yield
    except errors.GatedRepoError:
        terms = page(f"{'datasets/' * (kind is DATASET)}{name}")
        remedy = f"ask for it on the {kind.noun}'s page and set HF_TOKEN: accept the terms at {terms}"
        if token():
            remedy += " with the account of the token, which must have the right to read gated repositories"
        raise RecipeError(where, "gated", "access", remedy) from None
    except errors.RevisionNotFoundError:
        raise RecipeError(where, f"no revision {revision}", "a commit, branch or tag", f"correct {kind.revision_key}") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise RecipeError(
            where,
            f"no such {kind.noun}, or a private one",
            f"a {kind.noun} that HF_TOKEN may read",
            f"correct {kind.name_key}",
        ) from None
    except errors.RemoteEntryNotFoundError as error:
        raise RecipeError(where, str(error).splitlines()[0], "the file", kind.file_remedy) from None
    except (
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.FileMetadataError,
        HTTPError,
    ) as error:
        raise _unreached(kind, where, error) from None


@cache
def _guard() -> None:
    """Let the client ask no host that the settings do not allow, nor follow a redirect there."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def look_at(request: Any) -> None:
        check_host("Hugging Face Hub", str(request.url))

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], look_at]}
        return made

    set_client_factory(client)


def _unreached(kind: RepositoryType, where: str, error: Exception) -> LoraflowError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return RecipeError(where, f"HTTP {status}", "access", "set HF_TOKEN to a token that may read it")
    found = f"HTTP {status}" if status else f"not reached ({in_one_line(error) or type(error).__name__})"
    return ServiceError(
        where, found, "an answer of the Hub",
        f"check the network and HF_ENDPOINT, or {kind.offline_remedy}",
    )  # fmt: skip
