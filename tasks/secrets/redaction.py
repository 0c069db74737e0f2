"""What may be shown of a text: addresses without their passwords, and no secret of this process's environment in any spelling.

Libraries put addresses and headers into their errors, and servers repeat what they were sent. Secrets are removed from the texts of
our errors where these are made, and from everything that a process prints.
"""

import base64
import html
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from threading import RLock
from typing import Any, TextIO, cast
from urllib.parse import unquote_to_bytes

from tasks.secrets.variables import SECRET_NAME, secrets

HIDDEN = "…"
SHORTEST = 6
"""A shorter value cannot be told from ordinary words."""
PART = 8
"""So many characters in a row of a secret are hidden, wherever they stand in it."""
END = 6
"""So many are enough at the beginning or the end of a secret: what remains of it where somebody cut a text."""
LONG = 12
"""A word or number of so many characters is hidden inside other words too."""
VARIED = 4
"""What has fewer different characters may be a line in a table."""

COMMON = frozenset(
    (
        "airflow", "anonymous", "authorization", "bearer", "changeme", "credentials", "databricks", "default", "disabled", "enabled",
        "example", "google", "huggingface", "kubernetes", "localhost", "loraflow", "mlflow", "optional", "password", "postgres",
        "postgresql", "private", "public", "required", "secret", "service", "session", "string", "unknown", "username",
    )
)  # fmt: skip
"""Values of secret variables that are no secrets: hiding them would only spoil messages."""

WORD = re.compile(r"[A-Z]?[a-z\s]*|[A-Z\s]*|[0-9\s]*")
"""A word or a number, which may stand in a text by chance."""

ADDRESS = re.compile(r"(https?://)[^/\s]+@|(://[^/:@\s]*):[^/\s]+@")
QUERY = re.compile(r"([?&]([\w.-]+)=)[^&#\s'\"<>)]+")
HEADER = re.compile(r"(authorization[\"']?\s*[:=,]\s*b?[\"']?(?:basic|bearer|token)\s+)[\w.~+/=%\\-]+", re.IGNORECASE)

View = tuple[str, Sequence[int]]
"""A text as it reads with an encoding undone, and for each of its characters, and the end, where it begins in the given text."""


def without_credentials(text: str) -> str:
    """A text without the passwords and tokens of the URLs in it."""
    text = ADDRESS.sub(lambda found: found[1] or f"{found[2]}@", text)
    return QUERY.sub(lambda found: f"{found[1]}{HIDDEN}" if SECRET_NAME.search(found[2]) else found[0], text)


def without_secrets(text: str) -> str:
    """A text without the passwords of the URLs in it, and without the secrets that this process was given by its environment.

    A secret is found as it is, quoted as in an address, escaped as in JSON, HTML or Python's repr, in base64, and in parts.
    """
    if known := _known(secrets()):
        hidden: set[int] = set()
        for view in _views(text):
            hidden |= known.places(view)
        for run in reversed(list(_runs(sorted(hidden)))):
            text = text[: run.start] + HIDDEN + text[run.stop :]
    return HEADER.sub(rf"\1{HIDDEN}", without_credentials(text))


def unmistakable() -> frozenset[str]:
    """The secrets that stand in no text by chance."""
    return frozenset(value for value in secrets() if len(value) >= SHORTEST and not _weak(value))


def in_one_line(said: object, longest: int | None = 300) -> str:
    """What others said, without secrets, in one line, cut to a length. Cutting comes last: a secret that is cut is hard to find."""
    return " ".join(without_secrets(str(said)).split())[:longest]


class _Known:
    """Secrets, prepared for the search."""

    def __init__(self, values: Iterable[str]) -> None:
        self._pieces: dict[int, set[str]] = {}
        words = []
        for value in values:
            self._add_base64(value)
            if not _weak(value):
                self._add_text(value)
            elif any(map(str.isalnum, value)):
                words.append(re.escape(value))
        self._words = re.compile(rf"(?<![^\W_])({'|'.join(words)})(?![^\W_])") if words else None

    def _add_text(self, value: str) -> None:
        in_bytes = value.encode(errors="surrogateescape").decode("latin-1")  # in headers, and where escapes of bytes are undone
        for spelling in {value, in_bytes}:
            self._add(spelling, PART, range(len(spelling)))
            self._add(spelling, END, (0, len(spelling) - END))

    def _add_base64(self, value: str) -> None:
        for given in {value.encode(errors="surrogateescape"), value.encode("latin-1", "replace")}:
            for before in range(3):  # what stands before it, `user:` for example, moves it within base64's groups of three
                encoded = base64.b64encode(b"\0" * before + given + b"\0\0")
                whole = encoded[-(-before * 8 // 6) : (before + len(given)) * 8 // 6].decode()
                for alphabet in {whole, whole.translate({ord("+"): "-", ord("/"): "_"})}:
                    self._add(alphabet, PART, range(len(alphabet)))

    def _add(self, spelling: str, length: int, places: Iterable[int]) -> None:
        length = min(length, len(spelling))
        self._pieces.setdefault(length, set()).update(piece for at in places if len(piece := spelling[at : at + length]) == length)

    def places(self, view: View) -> set[int]:
        """Places in the given text that hold a secret or a part of one."""
        seen, origin = view
        found = {at + step for length, pieces in self._pieces.items() for at in _hits(seen, length, pieces) for step in range(length)}
        runs = [run for run in _runs(sorted(found)) if not _weak(seen[run.start : run.stop])]
        if self._words:
            runs += [range(*match.span()) for match in self._words.finditer(seen)]
        return {place for run in runs for place in range(origin[run.start], origin[run.stop])}


@lru_cache(maxsize=16)
def _known(values: frozenset[str]) -> _Known | None:
    kept = [value for value in values if len(value) >= SHORTEST and value.lower() not in COMMON]
    return _Known(kept) if kept else None


def _weak(text: str) -> bool:
    """Whether this may stand in a text by chance: a short word or number, a few signs, or a line of them."""
    core = re.sub(r"^[\W_]+|[\W_]+$", "", text)
    return len(set(text)) < VARIED or (len(text) < LONG and (not core or WORD.fullmatch(core) is not None))


def _hits(seen: str, length: int, pieces: set[str]) -> Iterator[int]:
    return (at for at in range(len(seen) - length + 1) if seen[at : at + length] in pieces)


def _runs(places: Sequence[int]) -> Iterator[range]:
    """Ascending places as runs without a gap."""
    begin = 0
    for number in range(1, len(places) + 1):
        if number == len(places) or places[number] != places[number - 1] + 1:
            yield range(places[begin], places[number - 1] + 1)
            begin = number


def _of_backslash(found: re.Match[str]) -> str:
    pair, code, octal, sign = found.groups()
    if pair:
        return (chr(int(pair[2:6], 16)) + chr(int(pair[8:], 16))).encode("utf-16", "surrogatepass").decode("utf-16")
    if code:
        return chr(number) if (number := int(code[1:], 16)) < sys.maxunicode else found[0]
    return chr(int(octal, 8)) if octal else ESCAPES.get(sign, sign)


ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

DECODERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile("%[0-9a-fA-F]{2}"), lambda found: unquote_to_bytes(found[0]).decode("latin-1")),
    (re.compile(r"%[0-9a-fA-F]{2}|\+"), lambda found: " " if found[0] == "+" else unquote_to_bytes(found[0]).decode("latin-1")),
    (
        re.compile(
            r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
            r"|\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|\\([0-7]{1,3})|\\([abfnrtv\\/'\"`$])"
        ),
        _of_backslash,
    ),
    (re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);"), lambda found: html.unescape(found[0])),
)
"""What is undone to find a secret: quoting in addresses (a blank may be a plus), escapes of Python, JSON, git and shells, HTML."""


def _views(text: str) -> Iterator[View]:
    """The text as it is, and with up to two encodings undone, one after the other."""
    seen, level = {text}, [(text, cast(Sequence[int], range(len(text) + 1)))]
    yield level[0]
    for _ in range(2):
        level = [view for before in level for pattern, undo in DECODERS if (view := _undone(before, pattern, undo)) and view[0] not in seen]
        seen |= {view[0] for view in level}
        yield from level


def _undone(view: View, pattern: re.Pattern[str], undo: Callable[[re.Match[str]], str]) -> View | None:
    text, origin = view
    pieces: list[str] = []
    places: list[int] = []
    at = 0
    for found in pattern.finditer(text):
        plain = undo(found)
        pieces += [text[at : found.start()], plain]
        places += [*origin[at : found.start()], *([origin[found.start()]] * len(plain))]
        at = found.end()
    if not pieces:
        return None
    return "".join((*pieces, text[at:])), [*places, *origin[at:]]


class _Redacted:
    """A stream that shows no secrets; everything but writing is the stream's own.

    What is written is held back to the end of its line, since a line may come in pieces.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._held, self._lock = stream, "", RLock()

    def write(self, text: str) -> int:
        """Take a text, and pass on the lines that are whole."""
        with self._lock:
            self._held += text
            whole = max(self._held.rfind("\n"), self._held.rfind("\r")) + 1
            if whole:
                shown, self._held = self._held[:whole], self._held[whole:]
                self._stream.write(without_secrets(shown))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on everything."""
        with self._lock:
            shown, self._held = self._held, ""
            self._stream.write(without_secrets(shown))
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Let this process print no secret from here on, whoever prints: our code, a library's log or warning, a traceback."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacted):
            setattr(sys, name, _Redacted(stream))
