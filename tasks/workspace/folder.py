"""A run in a folder of this machine, or of a volume that several machines mount."""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from tasks.workspace.files import remove_folder, write_atomically
from tasks.workspace.storage import lock_on_this_machine


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

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Hold a step: nobody else on this machine works on it."""
        return lock_on_this_machine(self.id, name, self.folder / f"{name}.lock")

    def start_attempt(self, name: str, generation: int) -> None:
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

    def save_checkpoint(self, folder: Path) -> bool:
        """Nothing to do: later attempts find it where it is."""
        return folder.is_dir()

    def upload(self, paths: Iterable[str]) -> None:
        """Nothing to do: other steps find them where they are."""

    def clean_up(self) -> None:
        """Remove what attempts handed on."""
        if self.kept.exists():
            remove_folder(self.kept)
