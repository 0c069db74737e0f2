"""A delimited text file, bytes to rows: what cannot be read is set aside line by line, never guessed at.

The rules, those of Python's csv module in strict mode, but told by line:

- A line ends at LF; carriage returns before it belong to the line end. Lines that hold nothing are passed over.
- A quoted field may hold delimiters, doubled quotes and line ends, so that a row may span lines; the row's line is its first.
- A quote opens a field only as its first character. A quote that does not close as it should (no closing quote within
  `max_line_bytes` of the line's start, or text right after the closing one) costs the line that opened it and no other: reading
  goes on at the very next line, so that one unclosed quote does not swallow the rows after it.
- Bytes that do not decode do not change where a row ends: the whole row is rejected, and only it.
"""

import codecs
import csv
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DataError, RecipeError
from tasks.schema import Data

CHUNK_BYTES = 1 << 16
DELIMITERS = {",": "','", ";": "';'", "\t": r"'\t'", "|": "'|'"}


@dataclass(frozen=True)
class Place:
    """Where a row stands in the source file."""

    line: int
    """First line, 1-based."""
    start: int
    """First byte."""
    length: int
    """Bytes, line end included."""


@dataclass(frozen=True)
class Reject:
    """A row that was set aside."""

    place: Place
    reason: str


@dataclass
class ParsedFile:
    """The rows of a file, and what could not be read as one."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    """(n_rows,) where each row stands."""
    rejects: list[Reject] = field(default_factory=list)
    spanning: int = 0
    """How many rows span more than one line."""


@dataclass(frozen=True)
class _Line:
    place: Place
    raw: bytes | None
    """None where the line is too long to be kept."""


def parse(path: Path, data: Data, where: str, advance: Callable[[int], None] = lambda _: None) -> ParsedFile:
    """Read a file as the recipe describes it; memory holds the rows, never more than one line beyond them.

    Args:
        path: the file.
        data: delimiter, encoding, longest line, and the columns that must be there.
        where: the file's name in error messages.
        advance: told the bytes that each row took.

    Raises:
        DataError: the file is empty, its header cannot be read, or a column is missing or stands twice.
        RecipeError: the encoding is unknown or cannot be read line by line.
    """
    encoding = _codec(data.encoding)
    csv.field_size_limit(max(csv.field_size_limit(), data.max_line_bytes))
    with path.open("rb") as stream:
        if stream.read(3) != codecs.BOM_UTF8 or encoding != "utf-8":
            stream.seek(0)
        reader = _Reader(stream, data, encoding)
        records = iter(reader)
        header = next(records, None)
        if header is None:
            raise DataError(where, "the file is empty", "a header and rows expected", "look at the source")
        place, columns = header
        if isinstance(columns, str):
            raise DataError(
                where, f"line {place.line}, the header: {columns}", "a line of column names expected",
                "mend the file, or correct data.encoding and data.delimiter",
            )  # fmt: skip
        _check_columns(columns, data, where)
        parsed = ParsedFile(columns)
        for place, fields in records:
            if isinstance(fields, list) and len(fields) != len(columns):
                fields = "wrong number of fields"
            if isinstance(fields, str):
                parsed.rejects.append(Reject(place, fields))
            else:
                parsed.rows.append(fields)
                parsed.places.append(place)
            advance(place.length)
    parsed.spanning = reader.spanning
    return parsed


def write_rejects(folder: Path, source: Path, rejects: list[Reject]) -> Path:
    """Write `rejects.bin`, the raw bytes one after the other, and `rejects.csv`, which tells them apart.

    The columns of `rejects.csv`: line (in the source, 1-based), reason, offset and length (bytes, in `rejects.bin`).

    Returns:
        The path of `rejects.csv`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "rejects.csv"
    with source.open("rb") as stream, (folder / "rejects.bin").open("wb") as raw, table.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["line", "reason", "offset", "length"])
        for reject in sorted(rejects, key=lambda reject: reject.place.start):
            writer.writerow([reject.place.line, reject.reason, raw.tell(), reject.place.length])
            stream.seek(reject.place.start)
            left = reject.place.length
            while left:
                chunk = stream.read(min(left, CHUNK_BYTES))
                raw.write(chunk)
                left -= len(chunk)
    return table


def number(text: str) -> float | None:
    """The number that a field holds, None where it holds none; no digit grouping, and no `nan`."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if value != value or "_" in text else value


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        plain = '\r\n",;'.encode(name) == b'\r\n",;' or name == "utf-8-sig"
    except LookupError:
        raise RecipeError("data.encoding", f"{encoding!r} is no encoding that Python knows", "utf-8, for example", "correct it") from None
    if not plain:
        raise RecipeError("data.encoding", f"{encoding} writes line ends in its own way", "one like utf-8 expected", "convert the file")
    return "utf-8" if name == "utf-8-sig" else name


def _check_columns(columns: list[str], data: Data, where: str) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(where, f"column {twice[0]!r} stands more than once", "distinct column names expected", "rename it")
    missing = [name for name in (data.text, data.label) if name not in columns]
    if not missing:
        return
    if len(columns) == 1:
        for other, shown in DELIMITERS.items():
            if {data.text, data.label} <= set(next(csv.reader(columns, delimiter=other))):
                raise DataError(
                    where, f"one column {columns[0]!r:.80} with delimiter {data.delimiter!r}",
                    f"columns {data.text!r} and {data.label!r} expected", f"set data.delimiter to {shown}",
                )  # fmt: skip
    near = get_close_matches(missing[0], columns, n=1, cutoff=0.5)
    found = ", ".join(repr(name)[:40] for name in columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")
    raise DataError(
        where, f"columns {found}", f"a column {missing[0]!r} expected",
        f"did you mean {near[0]!r:.40}?" if near else "correct data.text, data.label or data.delimiter",
    )  # fmt: skip


class _Reader:
    """The records of a stream: (place, fields), or (place, reason) where there is no reading it."""

    def __init__(self, stream: BinaryIO, data: Data, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self._limit, self._delimiter = data.max_line_bytes, data.delimiter
        self._last = 0
        self._put_back: deque[_Line] = deque()
        self.spanning = 0

    def __iter__(self) -> Iterator[tuple[Place, list[str] | str]]:
        while (line := self._line()) is not None:
            if line.raw is None:
                yield line.place, f"line longer than {self._limit} bytes"
            elif line.raw.strip(b"\r\n"):
                yield self._record(line, line.raw)

    def _line(self) -> _Line | None:
        if self._put_back:
            return self._put_back.popleft()
        start = self._stream.tell()
        raw = self._stream.readline(self._limit + 2)
        if not raw:
            return None
        self._last += 1
        if len(raw.rstrip(b"\r\n")) <= self._limit and (raw.endswith(b"\n") or len(raw) < self._limit + 2):
            return _Line(Place(self._last, start, len(raw)), raw)
        length, part = len(raw), raw
        while part and not part.endswith(b"\n"):
            part = self._stream.readline(CHUNK_BYTES)
            length += len(part)
        return _Line(Place(self._last, start, length), None)

    def _record(self, first: _Line, raw: bytes) -> tuple[Place, list[str] | str]:
        """The record that begins with a line; lines that turn out not to be part of it are put back."""
        taken = [first]
        decodes = True

        def lines() -> Iterator[str]:
            nonlocal decodes
            text, good = self._decode(raw)
            decodes = good
            yield text
            while (line := self._line()) is not None:
                taken.append(line)
                if line.raw is None or line.place.start + line.place.length - first.place.start > self._limit:
                    return
                text, good = self._decode(line.raw)
                decodes = decodes and good
                yield text

        fields: list[str] | str
        try:
            fields = next(csv.reader(lines(), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            fields = _reason(str(error), lines=len(taken))
            self._put_back.extendleft(reversed(taken[1:]))
            del taken[1:]
            decodes = self._decode(raw)[1]
        if not decodes:
            fields = f"not {self._encoding.upper()}"
        if len(taken) > 1:
            self.spanning += 1
        return Place(first.place.line, first.place.start, sum(line.place.length for line in taken)), fields

    def _decode(self, raw: bytes) -> tuple[str, bool]:
        """The text, and whether all of it was readable; what was not keeps its place, so that the fields still part."""
        try:
            return raw.decode(self._encoding), True
        except UnicodeDecodeError:
            return raw.decode(self._encoding, "surrogateescape"), False


def _reason(error: str, lines: int) -> str:
    """What the csv module found wrong, in the words of the report."""
    if "new-line" in error:
        return "carriage return outside quotes"
    if "end of data" in error or lines > 1:
        return "quote not closed"
    return "text after a closing quote" if "expected after" in error else "not readable as a row"
