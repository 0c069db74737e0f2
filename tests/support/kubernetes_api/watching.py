"""Watches: a stream of JSON lines with what changes."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.kubernetes_api.answers import Object, Refusal
from tests.support.kubernetes_api.resources import Resource
from tests.support.kubernetes_api.store import Change, Store

TICK = 0.2
LONGEST = 1800.0

Fits = Callable[[Object], bool]


@dataclass(frozen=True)
class Watched:
    """What a client wants to see."""

    resource: Resource
    namespace: str
    fits: Fits
    version: str
    timeout: float = LONGEST


def watch(store: Store, wanted: Watched) -> Iterator[bytes]:
    """Lines as the changes come; empty ones now and then, so that the server can look whether anybody still listens."""
    until = time.monotonic() + wanted.timeout
    plural, namespace = wanted.resource.plural, wanted.namespace
    if wanted.version in ("", "0"):
        found, version = store.all(plural, namespace)
        for thing in found:
            if wanted.fits(thing):
                yield _line("ADDED", thing)
    else:
        version = int(wanted.version)
    while (left := until - time.monotonic()) > 0:
        try:
            with store.changed:
                changes = store.since(version, plural, namespace)
                if not changes:
                    version = max(version, store.version)  # nothing up to here is of interest
                    store.changed.wait(min(TICK, left))
        except Refusal as gone:
            yield _line("ERROR", gone.status())
            return
        for change in changes:
            version = change.version
            if seen := _seen(change, wanted.fits):
                yield _line(seen, change.object)
        if not changes:
            yield b""


def _seen(change: Change, fits: Fits) -> str:
    """What a change is to somebody who sees only what fits."""
    before = change.previous is not None and fits(change.previous)
    after = change.type != "DELETED" and fits(change.object)
    if before and after:
        return "MODIFIED"
    return "ADDED" if after else "DELETED" if before else ""


def _line(kind: str, thing: Object) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"
