"""The bytes of a data file, line by line, each with its place; a line that is too long is passed over without being held."""

import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from tasks.errors import DataError

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class SourceLine:
    """Where a row stands in the source file, unpacked where the file is packed."""

    line: int
    """First line, 1-based; in a file that is one JSON array the number of the object."""
    start: int
    """First byte."""
    length: int
    """Bytes, line end included."""


@dataclass(frozen=True)
class Line:
    """A line, its end included."""

    place: SourceLine
    raw: bytes | None
    """None where the line is too long to be kept."""


@contextmanager
def opened(path: Path, where: str) -> Iterator[BinaryIO]:
    """A data file's bytes; one whose name ends in .gz is unpacked while it is read.

    Raises:
        DataError: the file says that it is packed, and is not, or not whole.
    """
    if path.suffix != ".gz":
        with path.open("rb") as stream:
            yield stream
        return
    try:
        with gzip.open(path) as packed:
            yield cast(BinaryIO, packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(where, f"cannot be unpacked ({error})", "a whole gzip file", "look at the source") from None


class Lines:
    """The lines of a stream, with the possibility to take some back."""

    def __init__(self, stream: BinaryIO, longest: int) -> None:
        self._stream, self.longest = stream, longest
        self._last = 0
        self._put_back: deque[Line] = deque()

    def next(self) -> Line | None:
        """The next line, None at the end."""
        if self._put_back:
            return self._put_back.popleft()
        start = self._stream.tell()
        raw = self._stream.readline(self.longest + 2)
        if not raw:
            return None
        self._last += 1
        if len(raw.rstrip(b"\r\n")) <= self.longest and (raw.endswith(b"\n") or len(raw) < self.longest + 2):
            return Line(SourceLine(self._last, start, len(raw)), raw)
        length, part = len(raw), raw
        while part and not part.endswith(b"\n"):
            part = self._stream.readline(CHUNK_BYTES)
            length += len(part)
        return Line(SourceLine(self._last, start, length), None)

    def put_back(self, lines: list[Line]) -> None:
        """Give lines back, in their order; they come again."""
        self._put_back.extendleft(reversed(lines))
