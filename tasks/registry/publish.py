"""Where models are published: the Hugging Face Hub, or a folder laid out like it.

`LORAFLOW_HUB` says which: `hub:NAMESPACE` or `folder:PATH`. Either way a repository is replaced whole or not at all.
"""

import re
import shutil
from pathlib import Path

from filelock import FileLock

from tasks.errors import ContractError, LoraflowError, ServiceError
from tasks.fetch.hub import token
from tasks.secrets.redaction import in_one_line
from tasks.workspace.files import link_or_copy

FOLDER_NAMESPACE = "loraflow"


def namespace(hub: str) -> str:
    """The part before the slash in the names of the repositories.

    Args:
        hub: `hub:NAMESPACE` or `folder:PATH`.

    Raises:
        ContractError: it is neither.
    """
    kind, _, rest = hub.partition(":")
    if kind not in ("hub", "folder") or not rest or (kind == "hub" and not re.fullmatch(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*", rest)):
        raise ContractError("LORAFLOW_HUB", f"is {hub!r}", "folder:PATH or hub:NAMESPACE", "set it so")
    return rest if kind == "hub" else FOLDER_NAMESPACE


def publish(folder: Path, hub: str, repository: str, message: str) -> str:
    """Put a folder's files into a repository, in place of what is there.

    Args:
        folder: what to publish.
        hub: `hub:NAMESPACE` or `folder:PATH`.
        repository: namespace/name.
        message: commit message on the Hub.

    Returns:
        Address of what was published: a folder, or the commit's page on the Hub.

    Raises:
        ServiceError: the Hub or the disk did not take it; a retry may do.
        ContractError: the Hub refused it.
    """
    place = hub.partition(":")[2]
    if hub.startswith("hub:"):
        return _to_hub(folder, repository, message)
    return str(_to_folder(folder, Path(place).expanduser().absolute() / repository))


def _to_folder(folder: Path, target: Path) -> Path:
    """Build the new repository beside the old one, then exchange them; a kill in between is mended by the next publication."""
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            shutil.rmtree(new, ignore_errors=True)
            link_or_copy(folder, new)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
            new.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise ServiceError(
            str(target), f"cannot be written ({error.strerror or error})", "a writable folder with room", "mend that, then retry"
        ) from error
    return target


def _to_hub(folder: Path, repository: str, message: str) -> str:
    """One commit that adds, replaces and removes files; a repository that is not there is created, private."""
    if not (ours := token()):
        raise ContractError(
            "HF_TOKEN", "not set", "a token that may write to the Hub", "set it, or publish to a folder (LORAFLOW_HUB=folder:PATH)"
        )
    from huggingface_hub import HfApi

    api = HfApi(token=ours, library_name="loraflow")
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, delete_patterns="*")
    except Exception as error:  # the client raises its own, httpx's and built-in errors; all of them end here
        raise _fault(repository, error) from None
    return f"{api.endpoint}/{repository}/tree/{commit.oid}"


def _fault(repository: str, error: Exception) -> LoraflowError:
    """The client's error as ours."""
    from huggingface_hub.errors import HfHubHTTPError

    detail = in_one_line(error)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    where = f"Hub repository {repository}"
    if isinstance(error, ValueError) or (status is not None and 400 <= status < 500 and status not in (408, 429)):
        return ContractError(where, f"refused ({detail})", "leave to write", "look at HF_TOKEN's rights and the namespace")
    return ServiceError(where, f"not reached or broken off ({detail})", "an answer", "look at HF_ENDPOINT and the network, then retry")
