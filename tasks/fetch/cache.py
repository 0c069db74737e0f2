"""What is fetched once for all runs: a lock for each thing, checksums, and names that appear only when the thing is whole."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import ServiceError

CHUNK = 1 << 20
"""Bytes that are read or written at once."""

PATIENCE_SECONDS = 3600.0
"""How long a process waits for another one that fetches the same thing."""


def say(text: str) -> None:
    """A line in the step's log."""
    print(f"download: {text}", file=sys.stderr, flush=True)


def hash_into(digest: "hashlib._Hash", path: Path) -> None:
    """Feed a file to a hash, a piece at a time."""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    hash_into(digest, path)
    return digest.hexdigest()


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Hold the lock of something in a cache; the lock dies with its process.

    Raises:
        ServiceError: another process held it for an hour.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        say(f"another process fetches {path.name}; waiting for it")
        try:
            lock.acquire(timeout=PATIENCE_SECONDS)
        except Timeout:
            raise ServiceError(
                str(path), "another process still fetches it", f"done within {PATIENCE_SECONDS:.0f} s", "look at that process"
            ) from None
    try:
        yield
    finally:
        lock.release()


def publish(partial: Path, final: Path) -> None:
    """Give a finished file or folder its name; after a power cut it is there whole or not at all."""
    for path in [partial, *partial.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    partial.rename(final)
