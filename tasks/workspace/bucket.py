"""A run below a URL of an object store, as `s3://bucket/prefix/<recipe>/<run>`; a step works on scratch beside it.

    <step>.json, recipe.yaml, …                        as in a folder
    <step>.claim                                       the attempt that may write: the one that began last
    <step>/g<G>-a<N>-<token>/ and its .listing         outputs of an attempt: what its manifest names
    <step>/g<G>-kept/<attempt>/checkpoint-<S>/         a whole checkpoint of that attempt, and its .listing
    <step>/g<G>-kept/<attempt>/<file>                  small files that attempts hand on (energy, scores)

There is no lock that a lost machine would release. The attempt that began last claims the step; one before it that still runs
somewhere finds that out before it hands up a checkpoint or its outputs, and ends with an error. It writes under its own prefix
until then, so it spoils nothing.

Each step has a scratch folder of its own, laid out like the run. What it reads is fetched when it asks for it, and the whole
folder is removed when the step ends: scratch holds what the running steps need, and no more.
"""

import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from tasks.errors import ContractError, LoraflowError, ServiceError, SettingsError
from tasks.settings import settings
from tasks.workspace.bucket_transfer import LISTING, Objects, inside
from tasks.workspace.checkpoint_files import best_of, relocate_best
from tasks.workspace.files import remove_folder
from tasks.workspace.storage import lock_on_this_machine

NOTE_SECONDS = 10.0
"""How seldom a note is written."""


class ObjectStore:
    """A run in an object store.

    Args:
        uri: its URL.
    """

    attempt: Path
    kept: Path

    def __init__(self, uri: str) -> None:
        self._objects = Objects(uri)
        self.uri = self._objects.url
        _, *below = self.uri.partition("://")[2].split("/")
        if len(below) < 2:
            raise SettingsError("run", f"{self.uri} is no place of a run", "…/<recipe>/<run>", "name the run with --run")
        recipe, run = below[-2:]
        self.id = f"{recipe}/{run}"
        self._scratch = settings().scratch_folder / recipe / f"{run}-{sha256(self.uri.encode()).hexdigest()[:8]}"
        self.folder = self._scratch / "reading"
        self._step = self._name = ""
        self._fetched: set[str] = set()
        self._units: dict[str, str] = {}
        """Folder of `kept` to its name in the store."""
        self._noted = 0.0

    def get(self, name: str) -> bytes | None:
        """A small object beside the manifests; None where there is none."""
        return self._objects.get(name)

    def put(self, name: str, text: str) -> None:
        """Write a small object; it is there whole or not at all."""
        self._objects.put(name, text.encode())

    def note(self, name: str, text: str) -> None:
        """Write a small object every ten seconds at most, beside the work; where that fails, there will be a next one."""
        if time.monotonic() - self._noted < NOTE_SECONDS and self._noted:
            return
        self._noted = time.monotonic()

        def write() -> None:
            with suppress(Exception):  # whatever it is, the step goes on
                self.put(name, text)

        threading.Thread(target=write, daemon=True, name="note").start()

    def names(self) -> list[str]:
        """Names of the small objects."""
        return self._objects.names()

    def address(self, relative: str) -> str:
        """Where a reader finds a file of the run."""
        return f"{self.uri}/{relative}"

    def path(self, relative: str) -> Path:
        """A file or folder of the run on scratch: fetched and checked, unless it is the running attempt's own.

        Raises:
            ContractError: it is not in the store, or differs from its listing.
        """
        relative = inside(relative)
        target, above = self.folder / relative, {relative, *map(str, Path(relative).parents)}
        if above & self._fetched or (self._name and self._own(target)):
            return target
        self._scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(self._scratch / f"{self.folder.name}.fetch.lock"):
            self._fetch(relative, target)
        self._fetched.add(relative)
        return target

    def _own(self, path: Path) -> bool:
        return path.is_relative_to(self.attempt) or path.is_relative_to(self.kept)

    def _fetch(self, relative: str, target: Path) -> None:
        if "/" not in relative:
            content = self.get(relative)
            if content is None:
                raise ContractError(self.address(relative), "not there", "a file of the run", "run the step that makes it")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            return
        step, attempt, *rest = relative.split("/")
        self._objects.download(f"{step}/{attempt}", self.folder / step / attempt, "/".join(rest))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a step on this machine, with a scratch folder of its own that goes when it ends."""
        with lock_on_this_machine(self.id, name, self._scratch / f"{name}.lock"):
            reading, self.folder = self.folder, self._scratch / name
            self._clear_scratch()
            try:
                yield
            finally:
                self._clear_scratch()
                self.folder, self._step, self._name = reading, "", ""

    def _clear_scratch(self) -> None:
        remove_folder(self.folder)
        self._fetched.clear()
        self._units.clear()

    def start_attempt(self, name: str, generation: int) -> None:
        """Claim the step for a new attempt, remove what others left, and fetch what they handed on."""
        number = max(_number(self._claimed(name)), 0) + 1
        self._step, self._name = name, f"g{generation}-a{number}-{secrets.token_hex(3)}"
        claim = {"attempt": self._name, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self.put(f"{name}.claim", json.dumps(claim))
        self._objects.remove([f"{name}.json"])
        self.attempt, self.kept = self.folder / name / self._name, self.folder / name / f"g{generation}-kept"
        self.attempt.mkdir(parents=True)
        there = self._objects.sizes(name)
        handed_on = {path: size for path, size in there.items() if path.startswith(f"{name}/{self.kept.name}/")}
        self._check_claim()
        self._objects.remove(set(there) - set(handed_on))
        if handed_on:
            self._restore(handed_on)

    def _claimed(self, name: str) -> str:
        """Name of the attempt that claimed the step last; empty where there was none."""
        try:
            return str(json.loads(self.get(f"{name}.claim") or b"{}")["attempt"])
        except (ValueError, KeyError, TypeError):
            return ""

    def _check_claim(self) -> None:
        """Raise ContractError where another attempt has claimed the step since."""
        if (other := self._claimed(self._step)) != self._name:
            raise ContractError(
                f"{self.id}: {self._step}", f"attempt {other or 'nobody'} has claimed it", f"{self._name}",
                "nothing to do here: the later attempt goes on, and this one, taken for dead, writes nothing more",
            )  # fmt: skip

    def _restore(self, handed_on: dict[str, int]) -> None:
        """Fetch the newest whole checkpoint of former attempts, the one it calls the best, and the small files of the last of them."""
        below = [path.split("/")[2:] for path in sorted(handed_on)]
        small = [(attempt, rest[0]) for attempt, *rest in below if len(rest) == 1]
        self.kept.mkdir(parents=True)
        for attempt, file in sorted(small, key=lambda found: _number(found[0])):
            if not file.endswith(LISTING):
                (self.kept / inside(file)).write_bytes(self.get(self._of_kept(attempt, file)) or b"")
        listed = [(attempt, file.removesuffix(LISTING)) for attempt, file in small if file.endswith(LISTING)]
        units = sorted(listed, key=lambda found: (_number(found[1]), _number(found[0])), reverse=True)
        newest = next((unit for attempt, unit in units if self._restored(attempt, unit)), None)
        best = best_of(self.kept / newest) if newest else None
        if best and best != newest:
            any(self._restored(attempt, unit) for attempt, unit in units if unit == best)
        if newest:
            relocate_best(self.kept / newest)

    def _restored(self, attempt: str, unit: str) -> bool:
        """Fetch a checkpoint; whether it was whole."""
        try:
            self._objects.download(self._of_kept(attempt, unit), self.kept / unit)
        except ContractError as error:
            _say(f"passing over a checkpoint that is not whole ({error})")
            if (self.kept / unit).exists():
                remove_folder(self.kept / unit)
            return False
        self._units[unit] = self._of_kept(attempt, unit)
        return True

    def _of_kept(self, attempt: str, name: str) -> str:
        return f"{self._step}/{self.kept.name}/{attempt}/{name}"

    def save_checkpoint(self, folder: Path) -> bool:
        """Hand up a whole checkpoint and the small files beside it, and remove what is no longer on scratch; whether that was done.

        A store that cannot be had just now costs no training: the next checkpoint will find it.

        Raises:
            ContractError: a later attempt has taken over.
        """
        name = self._of_kept(self._name, folder.name)
        with suppress(ServiceError):
            self._check_claim()
        try:
            for file in self.kept.glob("*"):
                if file.is_file():
                    self._objects.put(self._of_kept(self._name, file.name), file.read_bytes())
            self._objects.upload(folder, name, _files(folder), self._check_claim)
            self._units[folder.name] = name
            self._tidy_kept()
        except ServiceError as error:
            _say(f"{folder.name} could not be handed up, going on without it ({error})")
            return False
        return True

    def _tidy_kept(self) -> None:
        """Remove former attempts' files, and every checkpoint that the trainer has removed here."""
        standing = {unit: name for unit, name in self._units.items() if (self.kept / unit).is_dir()}
        self._units = standing
        own = self._of_kept(self._name, "")
        small = {own + file.name for file in self.kept.glob("*") if file.is_file()}
        keep = small | {name + LISTING for name in standing.values()}
        stale = [
            path
            for path in self._objects.sizes(f"{self._step}/{self.kept.name}")
            if path not in keep and not path.startswith(tuple(f"{name}/" for name in standing.values()))
        ]
        self._objects.remove(sorted(stale, key=lambda path: not path.endswith(LISTING)))

    def upload(self, paths: Iterable[str]) -> None:
        """Bring files and folders of the attempt up, unless a later one has taken over.

        Raises:
            ContractError: it has.
            ServiceError: the store does not take them.
        """
        self._check_claim()
        chosen = {file for path in paths for file in _files(self.folder / inside(path))}
        if chosen:
            self._objects.upload(self.attempt, f"{self._step}/{self._name}", sorted(chosen), self._check_claim)

    def clean_up(self) -> None:
        """Remove everything of the step but this attempt's outputs; where that fails, the step is done all the same."""
        own = f"{self._step}/{self._name}"
        try:
            there = self._objects.sizes(self._step)
            self._objects.remove(path for path in there if path != own + LISTING and not path.startswith(f"{own}/"))
        except LoraflowError as error:
            _say(f"what served {self._step} only stays in the store for now ({error})")


def _number(name: str) -> int:
    """The last number of a name: of checkpoint-20 or g0-a3-3f9c1a, 20 and 3."""
    match = re.search(r"-a?(\d+)(?:-[0-9a-f]{6})?(?:\.listing)?$", name)
    return int(match[1]) if match else -1


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _say(text: str) -> None:
    print(f"workspace: {text}", file=sys.stderr, flush=True)
