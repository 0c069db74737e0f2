"""Files of a run on this machine: small ones whole or not at all, large ones linked, folders gone for good."""

import os
import shutil
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

REMOVE_TRIES = 25


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


@retry(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(REMOVE_TRIES), wait=wait_fixed(0.2), reraise=True)
def remove_folder(folder: Path) -> None:
    """Remove what a dead attempt left; a process that it started may outlive it by a moment, and still write there."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            raise
