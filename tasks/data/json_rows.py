"""Objects of a JSON file, one array or an object a line: (place, fields), or (place, reason) where there is no reading it.

JSON is UTF-8. A value comes as text: a number as it is written, `true` and `false`, nothing for `null`, a list or an object as
JSON. An object that names a field twice says nothing certain and is set aside.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tasks.data.raw_lines import Lines, SourceLine
from tasks.errors import DataError

Fields = dict[str, str | list[Any] | dict[str, Any]]
"""Field to text, or to a list or an object."""

SPACE = re.compile(r"[ \t\r\n]*")
ARRAY = "an array of objects"


class _Doubled(dict[str, Any]):
    """An object that names a field twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return fields if len(fields := dict(pairs)) == len(pairs) else _Doubled(fields)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=str, parse_int=str, parse_constant=str)


def of_lines(stream: BinaryIO, longest: int) -> Iterator[tuple[SourceLine, Fields | str]]:
    """The objects of a file with one a line; lines that hold nothing are passed over."""
    lines = Lines(stream, longest)
    while (line := lines.next()) is not None:
        if line.raw is None:
            yield line.place, f"line longer than {longest} bytes"
        elif line.raw.strip():
            text = line.raw.decode("utf-8", "surrogateescape").strip()
            try:
                yield line.place, _fields(DECODER.decode(text), text)
            except (ValueError, RecursionError):
                yield line.place, "not JSON" if _encodes(text) else "not UTF-8"


def of_array(stream: BinaryIO, longest: int, where: str) -> Iterator[tuple[SourceLine, Fields | str]]:
    """The objects of a file that is one array, which is held in memory; a place's line is the number of the object, from 1.

    Raises:
        DataError: the file is no array. What stands after a fault cannot be told apart, so nothing of such a file is used.
    """
    byte = stream.tell()
    text = stream.read().decode("utf-8", "surrogateescape")
    at = _after_space(text, 0)
    if not text[at:]:
        return
    if text[at] != "[":
        raise DataError(where, f"begins with {text[at]!r}", ARRAY, "set data.format to jsonl where each line is an object")
    byte += _bytes(text[: at + 1])
    at, number = at + 1, 0
    while True:
        begin = _after_space(text, at)
        byte += begin - at
        if not number and text[begin : begin + 1] == "]":
            end = begin
            break
        number += 1
        try:
            value, end = DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise DataError(where, f"object {number} at byte {byte} is not readable ({_short(error)})", ARRAY, "mend the file") from None
        length = _bytes(text[begin:end])
        yield (
            SourceLine(number, byte, length),
            _fields(value, text[begin:end]) if length <= longest else f"object longer than {longest} bytes",
        )
        mark = _after_space(text, end)
        byte += length + mark - end + 1
        at, end = mark + 1, mark
        if text[mark : mark + 1] != ",":
            break
    if text[end : end + 1] != "]" or text[_after_space(text, end + 1) :]:
        raise DataError(where, f"after object {number} stands something else than the array's next or its end", ARRAY, "mend the file")


def _fields(value: Any, text: str) -> Fields | str:
    if not _encodes(text):
        return "not UTF-8"
    if not isinstance(value, dict):
        return "not an object"
    if isinstance(value, _Doubled):
        return "a field stands twice"
    fields = {name: _plain(each) for name, each in value.items()}
    return fields if _encodes(json.dumps(fields, ensure_ascii=False)) else "half of a surrogate pair"


def _plain(value: Any) -> str | list[Any] | dict[str, Any]:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    plain: str | list[Any] | dict[str, Any] = value
    return plain


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _short(error: Exception) -> str:
    return str(error).partition(":")[0] if isinstance(error, ValueError) else "nested too deep"
