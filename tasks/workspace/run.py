"""Where a run lives: its frozen recipe, a manifest for each finished step, and the steps' outputs.

    runs/<recipe>/<run>/recipe.yaml            frozen by `start`
                        <step>.json            the step is done; names the attempt that counts
                        <step>.memory.json     how often the step ran out of memory
                        <step>/g<G>-a<N>/      outputs of attempt N in generation G
                        <step>/g<G>-kept/      what attempts of one generation hand on (checkpoints)
                        <step>.lock            held by the process that works on the step

A step that is taken several times in one run, each time for another part of the work, has all of these for each part, under the
name `<step>.<part>`. `runs` is a folder, or a URL: `object_store.py` says what differs there.

A manifest is written last, and whole or not at all. What a dead attempt left is removed by the next one.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tasks.contracts import FORMER_STEPS, Manifest, Plan
from tasks.errors import ContractError, DataError, RecipeError, ServiceError
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.workspace.location import storage_at
from tasks.workspace.manifest import Envelope, dump, load, paths_below

M = TypeVar("M", bound=Manifest)

RECIPE = "recipe.yaml"
"""The frozen recipe."""

PART = r"[a-z0-9][a-z0-9-]{0,79}"
"""Name of a part of a step's work."""


class Run:
    """One run of one recipe, as a step sees it.

    Attributes:
        storage: where the run is, a folder or a URL.
        attempt: folder of the running attempt, empty at its start; a step writes its outputs here and nowhere else.
        kept: folder that attempts of one generation share; it goes when the step is done.
        part: which part of its work the running step does; empty for a step that does all of it at once.
    """

    attempt: Path
    kept: Path
    part: str = ""

    def __init__(self, place: Path | str) -> None:
        self.storage = storage_at(place)
        self._read: dict[str, str] = {}
        self._generation: int | None = None

    @property
    def uri(self) -> str:
        """The run's place as a command line holds it: a folder's path, or a URL."""
        return self.storage.uri

    @property
    def id(self) -> str:
        """<recipe>/<run>: names the run in MLflow's tags and in messages."""
        return self.storage.id

    @property
    def folder(self) -> Path:
        """Folder on this machine that the paths in manifests are relative to; of a run in a store, the step's scratch folder."""
        return self.storage.folder

    @cached_property
    def recipe(self) -> Recipe:
        """The frozen recipe.

        Raises:
            ContractError: the run has none.
        """
        frozen, where = self.get(RECIPE), self.address(RECIPE)
        if frozen is None:
            raise ContractError(where, "not there", "a frozen recipe", "start the run first (loraflow start RECIPE)")
        return recipes.parse(frozen, RECIPE)

    def freeze(self, recipe: Recipe) -> None:
        """Write the checked recipe into the run's place; a second start of the same run must bring the same recipe."""
        frozen = self.get(RECIPE)
        if frozen not in (None, recipe.dump()) and any(name.endswith(".json") for name in self.storage.names()):
            raise RecipeError(self.address(RECIPE), "holds another recipe, and the recipe of a run never changes", "", "start a new run")
        self.put(RECIPE, recipe.dump())

    def put(self, name: str, text: str) -> None:
        """Write a small file beside the manifests; it is there whole or not at all."""
        self.storage.put(name, text)

    def get(self, name: str) -> str | None:
        """Read a small file beside the manifests; None where there is none."""
        content = self.storage.get(name)
        return None if content is None else content.decode()

    def note(self, name: str, text: str) -> None:
        """Write a small file for whoever looks at the run; in a store now and then only, and no fault of it is felt."""
        self.storage.note(name, text)

    def relative(self, path: Path) -> str:
        """The path as a manifest holds it."""
        return path.absolute().relative_to(self.folder).as_posix()

    def path(self, relative: str) -> Path:
        """A path out of a manifest, on this machine: fetched and checked where the run is in a store.

        Raises:
            ContractError: the store does not have it whole.
        """
        return self.storage.path(relative)

    def address(self, path: Path | str) -> str:
        """Where a reader finds a file of the run: what messages name."""
        return self.storage.address(self.relative(path) if isinstance(path, Path) else path)

    def save_checkpoint(self, checkpoint: Path) -> bool:
        """Hand a whole folder of `kept` on to later attempts, wherever they run; whether that was done.

        Raises:
            ContractError: a later attempt has taken over; this one is to end.
        """
        return self.storage.save_checkpoint(checkpoint)

    def halvings(self, step: str, part: str = "") -> int:
        """How often this generation of a step ran out of memory, and so how often its micro-batch is to be halved."""
        noted = self._memory(step, part)
        current = self._generation is None or noted.get("generation") == self._generation
        return int(noted.get("halvings", 0)) if current else 0

    def note_out_of_memory(self, step: str, generation: int | None = None, part: str = "") -> None:
        """Remember that an attempt of a generation ran out of memory, by default the running one; a new one begins without such notes."""
        generation = generation if generation is not None else self._generation or 0
        noted = self._memory(step, part)
        before = noted.get("halvings", 0) if noted.get("generation") == generation else 0
        self.put(f"{self._name(step, part or self.part)}.memory.json", json.dumps({"generation": generation, "halvings": before + 1}))

    def _memory(self, step: str, part: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.get(f"{self._name(step, part or self.part)}.memory.json") or "{}"))
        except (ValueError, TypeError):
            return {}

    def _name(self, step: str, part: str = "") -> str:
        """Name of what a step, or a part of its work, has in the run's storage."""
        if step in FORMER_STEPS and self._has_former_names:
            step = FORMER_STEPS[step]
        return f"{step}.{part}" if part else step

    @cached_property
    def _has_former_names(self) -> bool:
        """Whether this is a sweep that was planned before its steps were renamed; it keeps the former names to its end."""
        return self.storage.get(f"{FORMER_STEPS[Plan.step]}.json") is not None

    def has(self, contract: type[Manifest]) -> bool:
        """Whether the step of this contract is done."""
        return self.storage.get(f"{self._name(contract.step)}.json") is not None

    def read(self, contract: type[M], part: str = "") -> M:
        """What an earlier step handed on; remembered as an input of this one.

        Args:
            contract: of that step.
            part: of which part of its work.

        Raises:
            ContractError: that step is not done, or its manifest does not fit the contract.
        """
        name = self._name(contract.step, part)
        where, raw = self.address(f"{name}.json"), self.storage.get(f"{name}.json")
        if raw is None:
            raise ContractError(where, "not there", f"the manifest of {name}", f"run {contract.step} first")
        envelope = load(where, raw)
        try:
            manifest = TypeAdapter(contract).validate_python(envelope.output)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise ContractError(where, f"{key}: {fault['msg']}", f"a {contract.__name__}", f"run {contract.step} again") from None
        self._read[name] = hashlib.sha256(raw).hexdigest()
        return manifest

    def write(self, manifest: Manifest, *, generation: int = 0, started: datetime | None = None) -> None:
        """Write a manifest; from here on the step is done."""
        text = dump(manifest, inputs=self._read, generation=generation, started=started)
        self.put(f"{self._name(manifest.step, self.part)}.json", text)

    def envelope(self, step: str, part: str = "") -> Envelope | None:
        """The step's valid manifest: readable, and its inputs as they were; None where there is none."""
        where = f"{self._name(step, part)}.json"
        raw = self.storage.get(where)
        if raw is None:
            return None
        try:
            envelope = load(self.address(where), raw)
        except ContractError:
            return None
        for name, digest in envelope.inputs.items():
            source = self.storage.get(f"{name}.json")
            if source is None or hashlib.sha256(source).hexdigest() != digest:
                return None
        return envelope

    def generation(self, step: str, part: str = "") -> int | None:
        """Generation of the step's valid manifest; None where there is none."""
        envelope = self.envelope(step, part)
        return envelope.generation if envelope else None

    def perform(self, step: str, work: Callable[["Run"], M], *, contract: type[M], generation: int = 0, part: str = "") -> M:
        """Do a step once: at once where its valid manifest is there, otherwise in an attempt of its own under the step's lock.

        Args:
            step: its name.
            work: what it does.
            contract: what it hands on.
            generation: how often a user asked for the step anew; a manifest of an earlier one does not count.
            part: which part of its work it is to do.

        Raises:
            ContractError: a part has no such name, or a later attempt has taken over.
            ServiceError: another process works on the step.
        """
        if part and not re.fullmatch(PART, part):
            raise ContractError(f"{self.id}: {step}", f"part is {part!r:.60}", "letters, digits and -", "name a part of the plan")
        self.part = part
        with self.storage.lock(self._name(step, part)):
            done = self.generation(step, part)
            if done is not None and done >= generation:
                again = f"to repeat it, clear the task, or add --generation {done + 1}"
                print(f"{self._name(step, part)}: done already, so nothing is done now; {again}", file=sys.stderr, flush=True)
                return self.read(contract, part)
            self._generation = generation
            try:
                return self._attempt(self._name(step, part), work, generation)
            finally:
                self._generation = None

    def _attempt(self, name: str, work: Callable[["Run"], M], generation: int) -> M:
        started, self._read = datetime.now(UTC), {}
        self.storage.start_attempt(name, generation)
        self.attempt, self.kept = self.storage.attempt, self.storage.kept
        try:
            manifest = work(self)
        except DataError:  # it tells of reports that lie in the attempt
            with suppress(ServiceError):
                self.storage.upload([self.relative(self.attempt)])
            raise
        self.storage.upload(paths_below(asdict(manifest), f"{self.relative(self.attempt)}/"))
        self.write(manifest, generation=generation, started=started)
        self.storage.clean_up()
        return manifest
