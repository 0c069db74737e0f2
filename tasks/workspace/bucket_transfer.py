"""Objects below a URL, through fsspec: small ones whole, folders in parallel, in parts and with checksums.

A folder goes up file by file, and its listing (path, bytes and sha256 of each file) last: without a listing it is not whole. What
comes down is compared with the listing before it bears its name. Requests that fail are tried again by the store's own client
(botocore, gcsfs, …), a part that was cut by itself; so what is raised here has been tried again already.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tasks.errors import ContractError, ServiceError, SettingsError
from tasks.secrets.redaction import in_one_line
from tasks.workspace.filesystems import faults_told, file_system

T = TypeVar("T")

PART_BYTES = 8 << 20
THREADS = 8
"""Transfers at the same time; each holds one part in memory, or a file of less than two parts."""

MOST_PARTS = 9_000
"""S3 takes 10,000 parts of one object."""

TRIES = 3
"""How often a part is asked for that comes short without an error, or does not fit its checksum."""

LISTING = ".listing"
"""Ending of the object that lists a folder's files."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#\s]+)(?:/[^?#\s]*)?")


@dataclass(frozen=True)
class Entry:
    """A file in a listing."""

    bytes: int
    sha256: str


Listing = dict[str, Entry]
"""Path below the folder to what is promised of the file."""


def inside(relative: str) -> str:
    """A path that stays below where it is put.

    Raises:
        ContractError: it does not.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in relative or "\0" in relative:
        raise ContractError(f"path {relative!r:.80}", "leaves its folder", "a path below the run", "run the step anew")
    return path.as_posix()


class Objects:
    """What lies below a URL; names are relative to it.

    Args:
        url: of a bucket or a prefix in it, `s3://bucket/prefix` for example.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not URL.fullmatch(self.url) or {".", ".."} & set(self.url.split("/")):
            found = in_one_line(repr(url), 120)
            raise SettingsError("workspace", f"{found} is no place", "a folder or a URL like s3://bucket/prefix", "correct it")
        if "@" in self.url:
            raise SettingsError("workspace", "the URL holds a name or a password", "none", "set the store's own variables (AWS_…)")

    def __repr__(self) -> str:
        return f"Objects({self.url})"

    @property
    def _store(self) -> Any:
        return file_system(self.url.partition("://")[0])

    @property
    def _root(self) -> str:
        return str(self._store._strip_protocol(self.url))

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def get(self, name: str) -> bytes | None:
        """A small object; None where there is none.

        Raises:
            ServiceError: the store does not answer, or not to us.
        """
        try:
            with self._asking(name):
                return bytes(self._store.cat_file(self._key(name)))
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write a small object; it is there whole or not at all.

        Raises:
            SettingsError: there is no such bucket.
            ServiceError: the store does not take it.
        """
        with self._asking(name, writing=True):
            self._store.pipe_file(self._key(name), content)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Name of every object below a name, and its size."""
        with self._asking(below):
            found = self._store.find(self._key(below) if below else self._root, detail=True)
        beginning, folder = len(self._root) + 1, f"{below}/" if below else ""
        named = {name[beginning:]: int(about["size"]) for name, about in found.items() if about["type"] == "file"}
        return {name: size for name, size in named.items() if name.startswith(folder)}

    def names(self) -> list[str]:
        """Names of the objects right below the URL."""
        try:
            with self._asking(""):
                found = self._store.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return [about["name"].rpartition("/")[2] for about in found if about["type"] == "file"]

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no fault."""

        def remove(name: str) -> None:
            try:
                with self._asking(name):
                    self._store.rm_file(self._key(name))
            except FileNotFoundError:
                pass

        _in_parallel(remove, list(names))

    def upload(self, folder: Path, name: str, files: Iterable[Path], before_listing: Callable[[], None] = lambda: None) -> None:
        """Bring files of a folder up as the folder `name`, its listing last.

        Args:
            folder: where paths begin.
            name: of the folder in the store.
            files: which of its files.
            before_listing: asked once the files are up; what it raises leaves the folder without a listing.
        """
        paths = {inside(path.relative_to(folder).as_posix()): path for path in files}
        small = {relative for relative, path in paths.items() if path.stat().st_size < 2 * PART_BYTES}

        def bring(relative: str) -> tuple[str, Entry]:
            if relative in small:
                content = paths[relative].read_bytes()
                self.put(f"{name}/{relative}", content)
                return relative, Entry(len(content), hashlib.sha256(content).hexdigest())
            return relative, self._entry_of_large(paths[relative])

        listing = dict(_in_parallel(bring, sorted(paths)))
        for relative in sorted(set(paths) - small):  # one after the other, each in parts at the same time
            self._put_large(f"{name}/{relative}", paths[relative])
        before_listing()
        content = {relative: {"bytes": entry.bytes, "sha256": entry.sha256} for relative, entry in sorted(listing.items())}
        self.put(name + LISTING, json.dumps({"files": content}, indent=1, ensure_ascii=False).encode())

    def _entry_of_large(self, path: Path) -> Entry:
        with path.open("rb") as stream:
            return Entry(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())

    def _put_large(self, name: str, path: Path) -> None:
        options: dict[str, int] = {}
        if self.url.startswith(("s3://", "s3a://")):
            options = {"chunksize": max(PART_BYTES, path.stat().st_size // MOST_PARTS + 1), "max_concurrency": THREADS}
        with self._asking(name, writing=True):
            self._store.put_file(str(path), self._key(name), **options)

    def listing(self, name: str) -> Listing:
        """The listing of a folder.

        Raises:
            ContractError: it has none, or one that cannot be read.
        """
        where, content = f"{self.url}/{name}", self.get(name + LISTING)
        if content is None:
            raise ContractError(where, "no listing", "a folder that is whole", "run the step that makes it anew")
        try:
            entries = json.loads(content)["files"].items()
            return {inside(path): Entry(int(entry["bytes"]), str(entry["sha256"])) for path, entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ContractError(where + LISTING, "not readable", "a folder's listing", "run the step that makes it anew") from None

    def download(self, name: str, folder: Path, below: str = "") -> None:
        """Bring a folder down, or what lies in it at or below a path; files that are there whole already stay.

        Raises:
            ContractError: a file is missing, or differs from the listing.
        """
        wanted = {path: entry for path, entry in self.listing(name).items() if not below or path == below or path.startswith(f"{below}/")}
        if not wanted:
            raise ContractError(f"{self.url}/{name}", f"{below} is not in its listing", "one of its files", "run the step anew")
        there = self.sizes(name)
        for path, entry in wanted.items():
            if (size := there.get(f"{name}/{path}")) != entry.bytes:
                found = "missing" if size is None else f"{size:,} bytes"
                raise self._torn(f"{name}/{path}", found, f"{entry.bytes:,} bytes")
        todo = {path: entry for path, entry in wanted.items() if not _is_there(folder / path, entry)}
        for _ in range(TRIES):
            todo = self._fetch(name, folder, todo)
            if not todo:
                return
        raise self._torn(f"{name}/{next(iter(todo))}", "another sha256", "the one of its listing")

    def _fetch(self, name: str, folder: Path, wanted: Listing) -> Listing:
        """Fetch files; returns those that do not fit their checksum."""

        def allocate(path: str) -> None:
            _partial(folder / path).parent.mkdir(parents=True, exist_ok=True)
            with _partial(folder / path).open("wb") as stream:
                stream.truncate(wanted[path].bytes)

        def fetch(part: tuple[str, int]) -> None:
            path, start = part
            content = self._part(f"{name}/{path}", start, min(start + PART_BYTES, wanted[path].bytes))
            with _partial(folder / path).open("r+b") as stream:
                stream.seek(start)
                stream.write(content)

        def check(path: str) -> bool:
            with _partial(folder / path).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != wanted[path].sha256:
                    return False
            _partial(folder / path).replace(folder / path)
            return True

        _in_parallel(allocate, list(wanted))
        _in_parallel(fetch, [(path, start) for path, entry in wanted.items() for start in range(0, entry.bytes, PART_BYTES)])
        fits = _in_parallel(check, list(wanted))
        return {path: entry for (path, entry), good in zip(wanted.items(), fits, strict=True) if not good}

    def _part(self, name: str, start: int, end: int) -> bytes:
        for _ in range(TRIES):
            try:
                with self._asking(name):
                    content = bytes(self._store.cat_file(self._key(name), start=start, end=end))
            except FileNotFoundError:
                raise self._torn(name, "missing", "a file of a whole folder") from None
            if len(content) == end - start:
                return content
        raise ServiceError(f"{self.url}/{name}", f"{len(content):,} bytes came", f"{end - start:,}", "try again")

    def _torn(self, name: str, found: str, expected: str) -> ContractError:
        return ContractError(f"{self.url}/{name}", found, expected, "run the step that makes it anew")

    @contextmanager
    def _asking(self, name: str, *, writing: bool = False) -> Iterator[None]:
        with faults_told(f"{self.url}/{name}".rstrip("/"), writing=writing):
            yield


def _in_parallel(do: Callable[[Any], T], things: list[Any]) -> list[T]:
    """Do it to all things on a few threads; after the first fault no further one is begun."""
    with ThreadPoolExecutor(THREADS, "transfer") as pool:
        futures = [pool.submit(do, thing) for thing in things]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _is_there(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes
