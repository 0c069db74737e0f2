"""One file over HTTP: streamed to disk, resumed where it was cut, tried again where the fault may pass."""

import hashlib
import ipaddress
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx

from tasks.errors import DataError, RecipeError, ServiceError
from tasks.fetch.allowed_hosts import check_host
from tasks.fetch.cache import hash_into, say
from tasks.fetch.packages import ShowProgress

PAUSES = (1.0, 3.0, 9.0)
"""Seconds between the tries of a transfer."""

LONGEST_PAUSE = 60.0
"""Seconds that a server may ask for between two tries."""

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of faults that pass."""

TIMEOUT = httpx.Timeout(60.0, connect=15.0)
"""Seconds without a byte before a try is given up."""


class TransientError(Exception):
    """A fault that may pass; `pause` is what the server asked for, seconds."""

    def __init__(self, fault: str, pause: float = 0.0) -> None:
        super().__init__(fault)
        self.pause = pause


def shown(url: str) -> str:
    """The address as logs and manifests may hold it: without user, password and query, which can be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fetch_url(url: str, sha256: str, partial: Path, progress: ShowProgress) -> str:
    """Stream a file to disk; what an earlier try or process left in `partial` is kept where the server can go on from it.

    Args:
        url: https address; http only on this machine.
        sha256: what a finished file has; a resumed one without it is fetched again from its beginning.
        partial: file to write.
        progress: shows the transfer.

    Returns:
        The sha256 of what came, which the caller compares.

    Raises:
        DataError: the server has no such file, or does not give it to us.
        RecipeError: the address is no https address.
        ServiceError: network or server failed in every try.
    """
    with _client() as client:
        digest, pieced = _persist(client, url, sha256, partial, progress)
        if pieced and digest != sha256:
            say("the resumed transfer does not fit together; starting from the beginning")
            partial.unlink()
            digest, _ = _persist(client, url, sha256, partial, progress)
    return digest


def check_url(url: str) -> None:
    """Ask for the first byte of a file, once.

    Raises as `fetch_url` does.
    """
    with _client() as client:
        try:
            with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as response:
                code = response.status_code
        except httpx.InvalidURL as error:
            raise _no_address(url, error) from None
        except httpx.RequestError as error:
            raise _unreached(url, str(error) or type(error).__name__) from None
    if code in TRANSIENT:
        raise _unreached(url, f"HTTP {code} {response.reason_phrase}")
    if code >= 400 and code != 416:  # an empty file has no first byte
        raise _refused(url, response)


def _persist(client: httpx.Client, url: str, sha256: str, partial: Path, progress: ShowProgress) -> tuple[str, bool]:
    """The sha256 of what came, and whether it came in pieces."""
    fault = ""
    for pause in (*PAUSES, None):
        try:
            return _transfer(client, url, sha256, partial, progress)
        except httpx.InvalidURL as error:
            raise _no_address(url, error) from None
        except (httpx.RequestError, TransientError) as error:
            fault = str(error) or type(error).__name__
            asked = min(getattr(error, "pause", 0.0), LONGEST_PAUSE)
        if pause is not None:
            say(f"{shown(url)}: {fault}; trying again in {max(pause, asked):.0f} s")
            time.sleep(max(pause, asked))
    raise _unreached(url, f"{fault} in {len(PAUSES) + 1} tries")


def _client() -> httpx.Client:
    return httpx.Client(
        follow_redirects=True, timeout=TIMEOUT, verify=_certificates(), headers={"Accept-Encoding": "identity"},
        event_hooks={"request": [_refuse_plain, _refuse_stranger]},
    )  # fmt: skip


def _no_address(url: str, error: Exception) -> RecipeError:
    return RecipeError("data.source.url", f"{shown(url)!r} ({error})", "an https address", "correct it")


def _unreached(url: str, fault: str) -> ServiceError:
    remedy = "check the network, its proxy and certificates (SSL_CERT_FILE), or give a copy in LORAFLOW_MIRROR"
    return ServiceError(shown(url), fault, "the file", remedy)


def _refused(url: str, response: httpx.Response) -> DataError:
    return DataError(shown(url), f"HTTP {response.status_code} {response.reason_phrase}", "the file", "correct data.source.url")


def _transfer(client: httpx.Client, url: str, sha256: str, partial: Path, progress: ShowProgress) -> tuple[str, bool]:
    """One try; returns as `_persist` does."""
    digest, here = hashlib.sha256(), partial.stat().st_size if partial.exists() else 0
    if here:
        hash_into(digest, partial)
        if digest.hexdigest() == sha256:
            return sha256, True
    with client.stream("GET", url, headers={"Range": f"bytes={here}-"} if here else {}) as response:
        _accept(response, url, partial)
        going_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {here}-")
        if response.status_code == 206 and not going_on:
            partial.unlink()
            raise TransientError("the server sent another part than was asked for")
        if not going_on:
            digest, here = hashlib.sha256(), 0
        length = response.headers.get("content-length")
        total = here + int(length) if length else 0
        with partial.open("ab" if going_on else "wb") as stream, progress(f"fetch {shown(url)}", total // 1000, "kB") as bar:
            bar.start_at(here // 1000)
            for chunk in response.iter_raw():  # pieces as they come: a larger one would be lost with the connection
                stream.write(chunk)
                digest.update(chunk)
                here += len(chunk)
                bar.reach(here // 1000)
    return digest.hexdigest(), going_on


def _accept(response: httpx.Response, url: str, partial: Path) -> None:
    code = response.status_code
    if code == 416:
        partial.unlink()
        raise TransientError("the server cannot go on where the file on disk ends")
    if code in TRANSIENT:
        asked = response.headers.get("retry-after", "")
        raise TransientError(f"HTTP {code} {response.reason_phrase}", float(asked) if asked.isdigit() else 0.0)
    if code >= 400:
        raise _refused(url, response)


def _refuse_plain(request: httpx.Request) -> None:
    """Also where a redirect leads: over plain http anybody on the way reads along."""
    host = request.url.host
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if request.url.scheme != "https" and not here:
        raise RecipeError("data.source.url", f"leads to {shown(str(request.url))}", "https", "correct the address")


def _refuse_stranger(request: httpx.Request) -> None:
    """Also where a redirect leads: only to hosts that the setting allows."""
    check_host("data.source.url", str(request.url))


def _certificates() -> ssl.SSLContext:
    """Those of the system (SSL_CERT_FILE counts), where company networks put theirs, and the usual public ones."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
