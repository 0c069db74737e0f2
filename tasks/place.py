"""Where a run's files are: a folder, or below a URL in an object store (`object_store.py`); `workspace.py` sees no difference.

A folder holds everything at once. A store holds what is handed up, and a step works beside it in a scratch folder.
"""

import hashlib
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, overload

from filelock import FileLock, Timeout

from tasks.errors import RecipeError, ServiceError
from tasks.files import remove_folder, write_atomically
from tasks.settings import local_folder

LOCK_SECONDS = 60.0
"""How long a step waits for a predecessor of its own to die before it gives up."""


class Place(Protocol):
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

    def held(self, name: str) -> AbstractContextManager[object]:
        """Hold a step: nobody else on this machine works on it."""

    def begin(self, name: str, generation: int) -> None:
        """Begin an attempt: its folder is empty, `kept` as the one before left it, and the rest of the dead is gone."""

    def keep(self, folder: Path) -> bool:
        """Hand a whole folder of `kept` on to later attempts, wherever they run; whether that was done."""

    def hand_up(self, paths: Iterable[str]) -> None:
        """Bring files and folders of the attempt to where other steps find them."""

    def settle(self) -> None:
        """The manifest is there: remove what served the attempt only."""


def held_here(where: str, name: str, lock: Path) -> AbstractContextManager[object]:
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


class Folder:
    """A run in a folder of this machine, or of a volume that several machines mount."""

    attempt: Path
    kept: Path

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.uri = str(self.folder)
        self.id = f"{self.folder.parent.name}/{self.folder.name}"

    def get(self, name: str) -> bytes | None:
        """A small file beside the manifests; None where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, text: str) -> None:
        """Write a small file; it is there whole or not at all."""
        write_atomically(self.folder / name, text)

    def note(self, name: str, text: str) -> None:
        """Write a small file that others may look at."""
        self.put(name, text)

    def names(self) -> list[str]:
        """Names of the small files."""
        return [path.name for path in self.folder.glob("*")]

    def path(self, relative: str) -> Path:
        """A file or folder of the run."""
        return self.folder / relative

    def address(self, relative: str) -> str:
        """Where a reader finds a file of the run."""
        return str(self.folder / relative)

    def held(self, name: str) -> AbstractContextManager[object]:
        """Hold a step: nobody else on this machine works on it."""
        return held_here(self.id, name, self.folder / f"{name}.lock")

    def begin(self, name: str, generation: int) -> None:
        """Begin an attempt; what dead ones left is removed, but for `kept` of this generation."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        home = self.folder / name
        past = [int(match[1]) for path in home.glob("g*-a*") if (match := re.fullmatch(r"g\d+-a(\d+)", path.name))]
        self.attempt = home / f"g{generation}-a{max(past, default=0) + 1}"
        self.kept = home / f"g{generation}-kept"
        for stale in home.glob("*"):
            if stale != self.kept:
                remove_folder(stale)
        self.attempt.mkdir(parents=True)

    def keep(self, folder: Path) -> bool:
        """Nothing to do: later attempts find it where it is."""
        return folder.is_dir()

    def hand_up(self, paths: Iterable[str]) -> None:
        """Nothing to do: other steps find them where they are."""

    def settle(self) -> None:
        """Remove what attempts handed on."""
        if self.kept.exists():
            remove_folder(self.kept)


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
        raise RecipeError("run", f"recipe is {recipe_name!r:.60}", "lower-case letters, digits and _ expected", "name a recipe")
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip(".-")
    if plain != run_id or not plain or len(plain) > 120:
        plain = f"{plain[:100] or 'run'}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return runs / recipe_name / plain if isinstance(runs, Path) else f"{runs.rstrip('/')}/{recipe_name}/{plain}"


def place_at(place: Path | str) -> Place:
    """The place of a run, by folder or URL."""
    if isinstance(place, Path):
        return Folder(place)
    if folder := local_folder(place):
        return Folder(folder)
    from tasks.object_store import ObjectStore

    return ObjectStore(place)
