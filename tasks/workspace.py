"""Where a run lives: a folder with the frozen recipe, a manifest for each finished step, and the steps' outputs.

    runs/<recipe>/<run>/recipe.yaml            frozen by `start`
                        <step>.json            the step is done; names the attempt that counts
                        <step>/g<G>-a<N>/      outputs of attempt N in generation G
                        <step>/g<G>-kept/      what attempts of one generation hand on (checkpoints)
                        <step>.lock            held by the process that works on the step

A step that is taken several times in one run, each time for another part of the work, has all of these for each part, under the
name `<step>.<part>`.

A manifest is written last, by rename. What a dead attempt left is removed by the next one.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from tasks import recipe as recipes
from tasks.contracts import SCHEMA, Manifest
from tasks.errors import ContractError, RecipeError, ServiceError
from tasks.schema import Recipe

M = TypeVar("M", bound=Manifest)

LOCK_SECONDS = 60.0
"""How long a step waits for a predecessor of its own to die before it gives up."""

REMOVE_TRIES = 25

PART = r"[a-z0-9][a-z0-9-]{0,79}"
"""Name of a part of a step's work."""


def run_folder(runs: Path, recipe_name: str, run_id: str) -> Path:
    """Folder of a run; whatever the run id holds, it is one folder below the recipe's.

    Raises:
        RecipeError: recipe_name is no recipe's name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", recipe_name):
        raise RecipeError("run", f"recipe is {recipe_name!r:.60}", "lower-case letters, digits and _ expected", "name a recipe")
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip(".-")
    if plain != run_id or len(plain) > 120:
        plain = f"{plain[:100]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return runs / recipe_name / plain


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The file or folder `source` as `target`, hard-linked where the file system allows: large weights are not kept twice."""

    def place(from_: str, to: str) -> None:
        try:
            os.link(from_, to)
        except OSError:
            shutil.copyfile(from_, to)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=place, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        place(str(source), str(target))


@dataclass(frozen=True)
class Envelope:
    """A manifest file: what the step hands on, and how it came to be."""

    schema: int
    step: str
    generation: int
    inputs: dict[str, str]
    """Step to sha256 of the manifest file that was read."""
    started: str
    finished: str
    output: dict[str, Any]


class Run:
    """One run of one recipe, as a step sees it.

    Attributes:
        folder: the run's folder; every path in a manifest is relative to it.
        attempt: folder of the running attempt, empty at its start; a step writes its outputs here and nowhere else.
        kept: folder that attempts of one generation share; it goes when the step is done.
        part: which part of its work the running step does; empty for a step that does all of it at once.
    """

    attempt: Path
    kept: Path
    part: str = ""

    def __init__(self, place: Path | str) -> None:
        self.folder = Path(place).absolute()
        self._read: dict[str, str] = {}
        self._generation: int | None = None

    @property
    def uri(self) -> str:
        """The run's place as a command line holds it: a folder's path, or a URL."""
        return str(self.folder)

    def put(self, name: str, text: str) -> None:
        """Write a small file beside the manifests; it is there whole or not at all."""
        write_atomically(self.folder / name, text)

    def get(self, name: str) -> str | None:
        """Read a small file beside the manifests; None where there is none."""
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def keep(self, checkpoint: Path) -> bool:
        """Hand a whole folder of `kept` on to later attempts, wherever they run; whether that was done."""
        return checkpoint.is_dir()

    def halvings(self, step: str, part: str = "") -> int:
        """How often this generation of a step ran out of memory, and so how often its micro-batch is to be halved."""
        try:
            noted = json.loads(self.get(f"{_name(step, part or self.part)}.memory.json") or "{}")
        except ValueError:
            return 0
        current = self._generation is None or noted.get("generation") == self._generation
        return int(noted.get("halvings", 0)) if current else 0

    def note_out_of_memory(self, step: str, generation: int, part: str = "") -> None:
        """Remember that an attempt ran out of memory; a new generation begins without such notes."""
        name = f"{_name(step, part or self.part)}.memory.json"
        try:
            noted = json.loads(self.get(name) or "{}")
        except ValueError:
            noted = {}
        before = noted.get("halvings", 0) if noted.get("generation") == generation else 0
        self.put(name, json.dumps({"generation": generation, "halvings": before + 1}))

    @cached_property
    def recipe(self) -> Recipe:
        """The frozen recipe.

        Raises:
            ContractError: the run has none.
        """
        path = self.folder / "recipe.yaml"
        if not path.exists():
            raise ContractError(str(path), "not there", "a frozen recipe expected", "start the run first (loraflow start RECIPE)")
        return recipes.read(path)

    @property
    def id(self) -> str:
        """<recipe>/<run>: names the run in MLflow's tags and in messages."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def freeze(self, recipe: Recipe) -> None:
        """Write the checked recipe into the run's folder; a second start of the same run must bring the same recipe."""
        path = self.folder / "recipe.yaml"
        if path.exists() and path.read_text(encoding="utf-8") != recipe.dump() and any(self.folder.glob("*.json")):
            raise RecipeError(str(path), "holds another recipe", "the recipe of a run does not change", "start a new run")
        write_atomically(path, recipe.dump())

    def relative(self, path: Path) -> str:
        """The path as a manifest holds it."""
        return path.absolute().relative_to(self.folder).as_posix()

    def path(self, relative: str) -> Path:
        """A path out of a manifest."""
        return self.folder / relative

    def has(self, contract: type[Manifest]) -> bool:
        """Whether the step of this contract is done."""
        return (self.folder / f"{contract.step}.json").exists()

    def read(self, contract: type[M], part: str = "") -> M:
        """What an earlier step handed on; remembered as an input of this one.

        Args:
            contract: of that step.
            part: of which part of its work.

        Raises:
            ContractError: that step is not done, or its manifest does not fit the contract.
        """
        name = _name(contract.step, part)
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise ContractError(str(path), "not there", f"the manifest of {name} expected", f"run {contract.step} first")
        raw = path.read_bytes()
        envelope = _envelope(path, raw)
        try:
            manifest = TypeAdapter(contract).validate_python(envelope.output)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise ContractError(
                str(path), f"{key}: {fault['msg']}", f"a {contract.__name__} expected", f"run {contract.step} again"
            ) from None
        self._read[name] = hashlib.sha256(raw).hexdigest()
        return manifest

    def write(self, manifest: Manifest, *, generation: int = 0, started: datetime | None = None) -> None:
        """Write a manifest; from here on the step is done."""
        now = datetime.now(UTC)
        envelope = Envelope(
            schema=SCHEMA,
            step=manifest.step,
            generation=generation,
            inputs=dict(sorted(self._read.items())),
            started=(started or now).isoformat(timespec="seconds"),
            finished=now.isoformat(timespec="seconds"),
            output=asdict(manifest),
        )
        path = self.folder / f"{_name(manifest.step, self.part)}.json"
        write_atomically(path, json.dumps(asdict(envelope), indent=2, ensure_ascii=False) + "\n")

    def generation(self, step: str, part: str = "") -> int | None:
        """Generation of the step's valid manifest: readable, and its inputs as they were; None where there is none."""
        path = self.folder / f"{_name(step, part)}.json"
        try:
            envelope = _envelope(path, path.read_bytes())
        except (FileNotFoundError, ContractError):
            return None
        for name, digest in envelope.inputs.items():
            source = self.folder / f"{name}.json"
            if not source.exists() or hashlib.sha256(source.read_bytes()).hexdigest() != digest:
                return None
        return envelope.generation

    def perform(self, step: str, work: Callable[["Run"], M], *, contract: type[M], generation: int = 0, part: str = "") -> M:
        """Do a step once: at once where its valid manifest is there, otherwise in an attempt of its own under the step's lock.

        Args:
            step: its name.
            work: what it does.
            contract: what it hands on.
            generation: how often a user asked for the step anew; a manifest of an earlier one does not count.
            part: which part of its work it is to do.

        Raises:
            ContractError: a part has no such name.
            ServiceError: another process works on the step.
        """
        if part and not re.fullmatch(PART, part):
            raise ContractError(f"{self.id}: {step}", f"part is {part!r:.60}", "letters, digits and - expected", "name a part of the plan")
        self.folder.mkdir(parents=True, exist_ok=True)
        name, self.part = _name(step, part), part
        lock = FileLock(self.folder / f"{name}.lock", timeout=LOCK_SECONDS)
        try:
            held = lock.acquire()
        except Timeout:
            raise ServiceError(
                f"{self.id}: {name}", "another process works on it", f"none after {LOCK_SECONDS:.0f} s", "wait for it, or end it"
            ) from None
        with held:
            done = self.generation(step, part)
            if done is not None and done >= generation:
                return self.read(contract, part)
            return self._attempt(name, work, generation)

    def _attempt(self, name: str, work: Callable[["Run"], M], generation: int) -> M:
        started, self._read, self._generation = datetime.now(UTC), {}, generation
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        home = self.folder / name
        past = [int(match[1]) for path in home.glob("g*-a*") if (match := re.fullmatch(r"g\d+-a(\d+)", path.name))]
        self.attempt = home / f"g{generation}-a{max(past, default=0) + 1}"
        self.kept = home / f"g{generation}-kept"
        for stale in home.glob("*"):
            if stale != self.kept:
                _remove(stale)
        self.attempt.mkdir(parents=True)
        manifest = work(self)
        self.write(manifest, generation=generation, started=started)
        shutil.rmtree(self.kept, ignore_errors=True)
        return manifest


def _name(step: str, part: str) -> str:
    """Name of what a step has in the run's folder."""
    return f"{step}.{part}" if part else step


def _remove(folder: Path) -> None:
    """Remove what a dead attempt left; a process that it started may outlive it by a moment, and still write there."""
    for again in reversed(range(REMOVE_TRIES)):
        try:
            return shutil.rmtree(folder)
        except OSError:
            if not again:
                raise
            time.sleep(0.2)


def _envelope(path: Path, raw: bytes) -> Envelope:
    try:
        envelope = TypeAdapter(Envelope).validate_json(raw)
    except ValidationError:
        raise ContractError(str(path), "not a manifest", "a step's manifest expected", "run the step again") from None
    if envelope.schema != SCHEMA:
        raise ContractError(str(path), f"schema is {envelope.schema}", f"{SCHEMA} expected", "run the step again with this version")
    return envelope
