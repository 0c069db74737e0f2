"""A few bytes written to a store, read back and removed.

Run as a program in a folder with DVC's configuration, `python -P probe.py [URL]` does so at DVC's remote, through DVC's own file
system and with its options. It exits with 75 where a retry may help. Imports nothing of loraflow, and DVC only there.
"""

import re
import secrets
import sys
from typing import Any

RETRY = 75

NAME = ".loraflow-preflight-"
"""What a probe's name begins with, should somebody find one whose process was killed."""

LASTING = re.compile(r"credential|denied|forbidden|not authori[sz]ed|invalid|no such bucket|not supported|not installed", re.IGNORECASE)
"""Words of faults that no waiting mends, where the kind of error does not tell."""


class OtherBytesError(Exception):
    """The store gave back what was not written to it."""


def probe(store: Any, folder: str) -> None:
    """Write, read and remove.

    Args:
        store: a file system as fsspec or DVC has them.
        folder: path in it.

    Raises:
        OtherBytesError: what was read is not what was written.
        Exception: the store's own, where it does not do as it is asked.
    """
    path, content = f"{folder.rstrip('/')}/{NAME}{secrets.token_hex(8)}", secrets.token_bytes(64)
    store.pipe_file(path, content)
    try:
        found = store.cat_file(path)
    finally:
        store.rm_file(path)
    if found != content:
        raise OtherBytesError("other bytes were read than were written")


def passing(error: Exception) -> bool:
    """Whether a store's error may pass by itself: it did not answer, or not well, and does not refuse."""
    lasting = (PermissionError, FileNotFoundError, NotImplementedError, ImportError, LookupError, ValueError, TypeError, OtherBytesError)
    said = re.sub(r"\w+://\S+", "", f"{type(error).__name__} {error}")  # an address may hold any word
    return not isinstance(error, lasting) and not LASTING.search(said)


def main(url: str = "") -> int:
    """Probe the remote of the DVC repository here, or one at a URL without options."""
    from dvc.config import Config
    from dvc.fs import get_cloud_fs

    try:
        config = None if url else Config.from_cwd()
        kind, options, path = get_cloud_fs(config, **({"name": config["core"]["remote"]} if config else {"url": url}))
        store = kind(**options)
        if kind.protocol in ("ssh", "hdfs", "webdav", "webdavs"):  # folders are made there before there are files in them
            store.makedirs(path, exist_ok=True)
        probe(store, path)
    except Exception as error:  # of DVC's, or of any store's client
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return RETRY if passing(error) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
