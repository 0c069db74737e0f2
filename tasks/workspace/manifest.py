"""A manifest file: what a step hands on, and how it came to be."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.contracts import SCHEMA, Manifest
from tasks.errors import ContractError


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


def dump(manifest: Manifest, *, inputs: dict[str, str], generation: int, started: datetime | None) -> str:
    """The manifest file of a step that ends now.

    Args:
        manifest: what it hands on.
        inputs: step to sha256 of the manifest file that was read.
        generation: how often a user asked for the step anew.
        started: when it began.
    """
    now = datetime.now(UTC)
    envelope = Envelope(
        schema=SCHEMA,
        step=manifest.step,
        generation=generation,
        inputs=dict(sorted(inputs.items())),
        started=(started or now).isoformat(timespec="seconds"),
        finished=now.isoformat(timespec="seconds"),
        output=asdict(manifest),
    )
    return json.dumps(asdict(envelope), indent=2, ensure_ascii=False) + "\n"


def load(where: str, raw: bytes) -> Envelope:
    """The envelope out of a manifest file.

    Raises:
        ContractError: it is none, or another version's.
    """
    try:
        envelope = TypeAdapter(Envelope).validate_json(raw)
    except ValidationError:
        raise ContractError(where, "not a manifest", "a step's manifest", "run the step again") from None
    if envelope.schema != SCHEMA:
        raise ContractError(where, f"schema is {envelope.schema}", f"{SCHEMA}", "run the step again with this version")
    return envelope


def paths_below(output: Any, beginning: str) -> Iterator[str]:
    """The paths in a manifest that begin so: what it names of an attempt."""
    if isinstance(output, str) and output.startswith(beginning):
        yield output
    elif isinstance(output, dict | list | tuple):
        for value in output.values() if isinstance(output, dict) else output:
            yield from paths_below(value, beginning)
