"""Secrets that a test can find again: planted wherever loraflow may be given one, and looked for in whatever a run leaves behind.

plant(monkeypatch)                    # the environment now holds them
address = with_password("http://127.0.0.1:5000", "MLFLOW")
...                                   # run, let things fail
assert leaks(home, done.stdout, done.stderr) == []
"""

import base64
import gzip
import io
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

MARK = "pL4ntedS3cretF0rTests"
"""In every planted secret; letters and digits alone, so that quoting leaves it as it is."""

SENT = ("HF_TOKEN", "AWS_SESSION_TOKEN")
"""Variables whose value is sent as a header, which holds ASCII alone."""
VARIABLES = (*SENT, "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")
"""Variables whose whole value is a secret."""

PROXIES = ("https_proxy", "HTTPS_PROXY")
NO_PROXY = "127.0.0.1,localhost"


def secret(name: str) -> str:
    """The secret of a name, with characters that addresses, JSON, HTML and Python's repr have to quote, each in its own way."""
    beyond = "" if name in SENT else " é\\ж" if name in VARIABLES else " é\\"  # clients send what addresses hold in Latin-1
    return f"{'hf_' if name == 'HF_TOKEN' else ''}{MARK}{name.replace('_', '')}+/='\"%41{beyond}x"


def with_password(address: str, name: str) -> str:
    """An address with a user and a planted password in it."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://somebody:{quote(secret(name), safe='')}@{rest}"


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a secret into every variable that holds one, with the line end that a Kubernetes secret made from a file has."""
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{secret(name)}\n")
    for name in PROXIES:
        monkeypatch.setenv(name, with_password("http://127.0.0.1:9", "proxy"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, NO_PROXY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")


def leaks(*places: Path | str | bytes) -> list[str]:
    """Where a planted secret or one of its ends is, in plain or in base64: a line for each place, empty where there is none.

    Args:
        places: folders and files; texts and bytes that were printed or sent. Archives and git repositories are looked into.
    """
    found = []
    for number, place in enumerate(places):
        for name, content in _contents(place, f"text {number}"):
            hits = [f"{name}: {form}, …{_around(content, needle)}…" for form, needle in NEEDLES if needle in content]
            found += hits[:1]
    return found


def _in_base64() -> Iterator[bytes]:
    """The mark as base64 holds it, at each of the three places in a group that it may begin at."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + MARK.encode())
        whole = (before + len(MARK)) // 3 * 4
        yield encoded[-(-before * 4 // 3) + (1 if before else 0) : whole]


PART = 8
NEEDLES = (
    *(("in plain", MARK[at : at + PART].encode()) for at in (0, len(MARK) - PART)),
    *(("in base64", needle) for needle in _in_base64()),
)


def _around(content: bytes, needle: bytes) -> str:
    at = content.index(needle)
    return content[max(0, at - 60) : at + len(needle) + 20].decode("utf-8", "replace").replace("\n", " ")


def _contents(place: Path | str | bytes, name: str) -> Iterator[tuple[str, bytes]]:
    if isinstance(place, str | bytes):
        yield name, place if isinstance(place, bytes) else place.encode()
    elif place.is_dir():
        if (place / "objects").is_dir() and (place / "HEAD").is_file():
            yield f"{place} (git objects)", _git_objects(place)
        for path in sorted(place.iterdir()):
            yield str(path), path.name.encode()
            if not path.is_symlink():
                yield from _contents(path, "")
    elif place.is_file():
        yield from _unpacked(str(place), place.read_bytes())


def _unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if content.startswith(b"\x1f\x8b"):
        yield f"{name} (unpacked)", gzip.decompress(content)
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield f"{name} ({member})", archive.read(member)
    elif content[:1] == b"\x78":
        try:
            yield f"{name} (inflated)", zlib.decompress(content)
        except zlib.error:
            return


def _git_objects(repository: Path) -> bytes:
    command = ["git", "-C", str(repository), "cat-file", "--batch", "--batch-all-objects"]
    return subprocess.run(command, capture_output=True, check=True).stdout
