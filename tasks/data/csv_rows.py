"""Records of a delimited text file: the rules of Python's csv module in strict mode, but told by line.

- A line ends at LF; carriage returns before it belong to the line end. Lines that hold nothing are passed over.
- A quoted field may hold delimiters, doubled quotes and line ends, so that a row may span lines; the row's line is its first.
- A quote opens a field only as its first character. A quote that does not close as it should (no closing quote within
  `max_line_bytes` of the line's start, or text right after the closing one) costs the line that opened it and no other: reading
  goes on at the very next line, so that one unclosed quote does not swallow the rows after it.
- With `quoting: false` a quote is a character like any other, and every line is a row.
- Bytes that do not decode do not change where a row ends: the whole row is rejected, and only it.
"""

import codecs
import csv
from collections.abc import Iterator
from typing import BinaryIO, Literal

from tasks.data.raw_lines import Line, Lines, SourceLine
from tasks.errors import RecipeError
from tasks.schema.data import Table


def codec(encoding: str) -> str:
    """Python's name of an encoding that a file can be read in line by line.

    Raises:
        RecipeError: there is no such encoding, or it writes line ends in its own way.
    """
    try:
        name = codecs.lookup(encoding).name
        plain = '\r\n",;'.encode(name) == b'\r\n",;' or name == "utf-8-sig"
    except LookupError:
        raise RecipeError("data.encoding", f"{encoding!r} is no encoding that Python knows", "utf-8, for example", "correct it") from None
    if not plain:
        raise RecipeError("data.encoding", f"{encoding} writes line ends in its own way", "one like utf-8", "convert the file")
    return "utf-8" if name == "utf-8-sig" else name


class Records:
    """The records of a stream: (place, fields), or (place, reason) where there is no reading it."""

    def __init__(self, stream: BinaryIO, table: Table, encoding: str) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), table.max_line_bytes))
        self._lines, self._encoding = Lines(stream, table.max_line_bytes), encoding
        self._delimiter = table.delimiter
        self._quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if table.quoting else csv.QUOTE_NONE
        self.spanning = 0
        """How many records so far span more than one line."""

    def __iter__(self) -> Iterator[tuple[SourceLine, list[str] | str]]:
        while (line := self._lines.next()) is not None:
            if line.raw is None:
                yield line.place, f"line longer than {self._lines.longest} bytes"
            elif line.raw.strip(b"\r\n"):
                yield self._record(line, line.raw)

    def _record(self, first: Line, raw: bytes) -> tuple[SourceLine, list[str] | str]:
        """The record that begins with a line; lines that turn out not to be part of it are put back."""
        taken = [first]
        decodes = True

        def lines() -> Iterator[str]:
            nonlocal decodes
            text, good = self._decode(raw)
            decodes = good
            yield text
            while (line := self._lines.next()) is not None:
                taken.append(line)
                if line.raw is None or line.place.start + line.place.length - first.place.start > self._lines.longest:
                    return
                text, good = self._decode(line.raw)
                decodes = decodes and good
                yield text

        fields: list[str] | str
        try:
            fields = next(csv.reader(lines(), delimiter=self._delimiter, quoting=self._quoting, strict=True))
        except csv.Error as error:
            fields = _reason(str(error), lines=len(taken))
            self._lines.put_back(taken[1:])
            del taken[1:]
            decodes = self._decode(raw)[1]
        if not decodes:
            fields = f"not {self._encoding.upper()}"
        if len(taken) > 1:
            self.spanning += 1
        return SourceLine(first.place.line, first.place.start, sum(line.place.length for line in taken)), fields

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
