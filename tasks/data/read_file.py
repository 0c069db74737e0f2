"""A data file, bytes to rows: what cannot be read is set aside row by row, never guessed at."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from tasks.data import json_rows
from tasks.data.csv_rows import Records, codec
from tasks.data.raw_lines import CHUNK_BYTES, SourceLine, opened
from tasks.errors import DataError
from tasks.schema.data import Table

DELIMITERS = {",": "','", ";": "';'", "\t": r"'\t'", "|": "'|'"}


@dataclass(frozen=True)
class Reject:
    """A row that was set aside."""

    place: SourceLine
    reason: str


@dataclass
class ParsedFile:
    """The rows of a file, and what could not be read as one."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    places: list[SourceLine] = field(default_factory=list)
    """(n_rows,) where each row stands."""
    rejects: list[Reject] = field(default_factory=list)
    spanning: int = 0
    """How many rows span more than one line."""


def parse(path: Path, table: Table, where: str, advance: Callable[[int], None] = lambda _: None, also: Sequence[str] = ()) -> ParsedFile:
    """Read a file as the recipe describes it; memory holds the rows, and of a csv or jsonl file never more than one line beyond them.

    Args:
        path: the file; one whose name ends in .gz is unpacked.
        table: format, longest line, and the columns that must be there.
        where: the file's name in error messages.
        advance: told the bytes that each row took, unpacked.
        also: further columns that must be there.

    Raises:
        DataError: the file is empty or damaged, its header cannot be read, or a column is missing or stands twice.
        RecipeError: the encoding is unknown or cannot be read line by line.
    """
    needed = tuple(dict.fromkeys((*table.columns(), *also)))
    encoding = codec(table.encoding) if table.format == "csv" else "utf-8"
    with opened(path, where) as stream:
        if stream.read(3) != codecs.BOM_UTF8 or encoding != "utf-8":
            stream.seek(0)
        if table.format == "csv":
            return _delimited(Records(stream, table, encoding), table, where, needed, advance)
        longest = table.max_line_bytes
        found = json_rows.of_lines(stream, longest) if table.format == "jsonl" else json_rows.of_array(stream, longest, where)
        return _objects(found, table, where, needed, advance)


def _delimited(records: Records, table: Table, where: str, needed: Sequence[str], advance: Callable[[int], None]) -> ParsedFile:
    found = iter(records)
    columns = _header(found, where) if table.header is None else list(table.header)
    _check_columns(columns, table, where, needed)
    parsed = ParsedFile(columns)
    for place, fields in found:
        if isinstance(fields, list) and len(fields) != len(columns):
            fields = "wrong number of fields"
        if isinstance(fields, str):
            parsed.rejects.append(Reject(place, fields))
        else:
            parsed.rows.append(fields)
            parsed.places.append(place)
        advance(place.length)
    parsed.spanning = records.spanning
    return parsed


def _header(records: Iterator[tuple[SourceLine, list[str] | str]], where: str) -> list[str]:
    header = next(records, None)
    if header is None:
        raise DataError(where, "the file is empty", "a header and rows", "look at the source")
    place, columns = header
    if isinstance(columns, str):
        raise DataError(
            where, f"line {place.line}, the header: {columns}", "a line of column names",
            "mend the file, or correct data.encoding and data.delimiter",
        )  # fmt: skip
    return columns


def _objects(
    found: Iterator[tuple[SourceLine, json_rows.Fields | str]],
    table: Table,
    where: str,
    needed: Sequence[str],
    advance: Callable[[int], None],
) -> ParsedFile:
    """Rows of objects: the columns are all fields that any object names, in the order of their first appearance.

    A field that the recipe does not name may be missing or hold a list or an object; one that it names must be a text.
    """
    rejects: list[Reject] = []
    kept: list[tuple[SourceLine, json_rows.Fields]] = []
    columns: dict[str, None] = {}
    for place, fields in found:
        if isinstance(fields, str):
            rejects.append(Reject(place, fields))
        else:
            kept.append((place, fields))
            columns.update(dict.fromkeys(fields))
        advance(place.length)
    if not kept and not rejects:
        raise DataError(where, "the file is empty", "objects", "look at the source")
    if kept:
        _check_columns(list(columns), table, where, needed)
    parsed = ParsedFile(list(columns) or list(needed), rejects=rejects)
    for place, fields in kept:
        fault = next((f"no field {name}" for name in needed if name not in fields), "") or next(
            (f"{name} is not a text" for name in needed if not isinstance(fields[name], str)), ""
        )
        if fault:
            rejects.append(Reject(place, fault))
        else:
            parsed.rows.append([_text(fields.get(name, "")) for name in parsed.columns])
            parsed.places.append(place)
    return parsed


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_rejects(folder: Path, files: Sequence[tuple[str, Path, Sequence[Reject]]]) -> Path:
    """Write `rejects.bin`, the raw bytes one after the other, and `rejects.csv`, which tells them apart.

    The columns of `rejects.csv`: file, line (in that file, 1-based), reason, offset and length (bytes, in `rejects.bin`).

    Args:
        folder: where they are written; it is made.
        files: name, path and rejected rows of each data file.

    Returns:
        The path of `rejects.csv`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "rejects.csv"
    with (folder / "rejects.bin").open("wb") as raw, table.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "line", "reason", "offset", "length"])
        for name, source, rejects in files:
            with opened(source, name) as stream:
                for reject in sorted(rejects, key=lambda reject: reject.place.start):
                    writer.writerow([name, reject.place.line, reject.reason, raw.tell(), reject.place.length])
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


def _check_columns(columns: list[str], table: Table, where: str, needed: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(where, f"column {twice[0]!r} stands more than once", "distinct column names", "rename it")
    missing = [name for name in needed if name not in columns]
    if not missing:
        return
    if len(columns) == 1 and table.format == "csv":
        for other, shown in DELIMITERS.items():
            if set(needed) <= set(next(csv.reader(columns, delimiter=other))):
                raise DataError(
                    where, f"one column {columns[0]!r:.80} with delimiter {table.delimiter!r}",
                    f"columns {' and '.join(map(repr, needed))}", f"set data.delimiter to {shown}",
                )  # fmt: skip
    near = get_close_matches(missing[0], columns, n=1, cutoff=0.5)
    found = ", ".join(repr(name)[:40] for name in columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")
    named = "the columns that data and labels name" + (", or data.delimiter" if table.format == "csv" else "")
    raise DataError(where, f"columns {found}", f"a column {missing[0]!r}", f"did you mean {near[0]!r:.40}?" if near else f"correct {named}")
