"""Where a run's files are: a folder (`folder.py`), or below a URL in an object store (`object_store.py`). Steps see no difference.

A folder holds everything at once. A store holds what is handed up, and a step works beside it in a scratch folder.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from tasks.errors import ServiceError

LOCK_SECONDS = 60.0
"""How long a step waits for a predecessor of its own to die before it gives up."""


class Storage(Protocol):
    """What a run needs of its place; names and paths are relative to it.

    Attributes:
        uri: how a command line names it.
        id: <recipe>/<run>.
        folder: where this process finds and leaves files of the run.
        attempt: of the running attempt, for its outputs.
        kept: for what attempts of one generation hand on.
    """

    uri: str
    id: str
    folder: Path
    attempt: Path
    kept: Path

    def get(self, name: str) -> bytes | None:
        """A small file beside the manifests; None where there is none."""

    def put(self, name: str, text: str) -> None:
        """Write a small file; it is there whole or not at all."""

    def note(self, name: str, text: str) -> None:
        """Write a small file that others may look at; neither a fault nor a slow store is felt."""

    def names(self) -> list[str]:
        """Names of the small files."""

    def path(self, relative: str) -> Path:
        """A file or folder of the run on this machine, fetched where it is not there yet."""

    def address(self, relative: str) -> str:
        """Where a reader finds a file of the run, for messages."""

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Hold a step: nobody else on this machine works on it."""

    def start_attempt(self, name: str, generation: int) -> None:
        """Begin an attempt: its folder is empty, `kept` as the one before left it, and the rest of the dead is gone."""

    def save_checkpoint(self, folder: Path) -> bool:
        """Hand a whole folder of `kept` on to later attempts, wherever they run; whether that was done."""

    def upload(self, paths: Iterable[str]) -> None:
        """Bring files and folders of the attempt to where other steps find them."""

    def clean_up(self) -> None:
        """The manifest is there: remove what served the attempt only."""


def lock_on_this_machine(where: str, name: str, lock: Path) -> AbstractContextManager[object]:
    """The lock of a step on this machine.

    Raises:
        ServiceError: another process works on the step.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(lock, timeout=LOCK_SECONDS).acquire()
    except Timeout:
        raise ServiceError(
            f"{where}: {name}", "another process works on it", f"none after {LOCK_SECONDS:.0f} s", "wait for it, or end it"
        ) from None
