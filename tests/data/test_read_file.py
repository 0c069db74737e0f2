"""Bytes to rows: what a file's dirt costs, and that it costs no more."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.read_file import ParsedFile, Reject, number, parse, write_rejects
from tasks.errors import DataError, RecipeError
from tasks.schema.data import Data

HEADER = b"text,label\n"


def read(folder: Path, raw: bytes, **keys: object) -> ParsedFile:
    path = folder / "data.csv"
    path.write_bytes(raw)
    data = Data.model_validate({"source": {"file": str(path)}, "text": "text", "label": "label", **keys})
    return parse(path, data, "data.csv")


def rejected(parsed: ParsedFile) -> list[tuple[int, str]]:
    return [(reject.place.line, reject.reason) for reject in parsed.rejects]


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (b"a,x\nb,y\n", [["a", "x"], ["b", "y"]]),
        (b"a,x\r\nb,y\r\r\n", [["a", "x"], ["b", "y"]]),
        (b"\n\r\na,x\n\n", [["a", "x"]]),
        (b"a,x", [["a", "x"]]),
        (b'"a ""b"", c",x\n', [['a "b", c', "x"]]),
        (b'"a\rb\r\n\nc",x\n', [["a\rb\r\n\nc", "x"]]),
        (b'a "b" c,x\n', [['a "b" c', "x"]]),
        (b"\xc3\xa9,x\n", [["é", "x"]]),
        (b",\n", [["", ""]]),
    ],
    ids=["lf", "crlf", "blank lines", "no end", "doubled quotes", "over lines", "quotes inside", "utf-8", "empty fields"],
)
def test_good_rows(tmp_path: Path, raw: bytes, rows: list[list[str]]) -> None:
    parsed = read(tmp_path, HEADER + raw)
    assert (parsed.rows, parsed.rejects) == (rows, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"bad \xff,x", "not UTF-8"),
        (b"a,x,y", "wrong number of fields"),
        (b"a", "wrong number of fields"),
        (b'"a"b,x', "text after a closing quote"),
        (b'"a,x', "quote not closed"),
        (b"a\rb,x", "carriage return outside quotes"),
        (b"a" * 1000 + b",x", "line longer than 500 bytes"),
    ],
)
def test_a_bad_line_costs_itself_only(tmp_path: Path, line: bytes, reason: str) -> None:
    parsed = read(tmp_path, HEADER + b'"before\nit",x\n' + line + b'\nafter,y\n"last",x\n', max_line_bytes=500)
    assert parsed.rows == [["before\nit", "x"], ["after", "y"], ["last", "x"]]
    assert rejected(parsed) == [(4, reason)]
    assert [place.line for place in parsed.places] == [2, 5, 6]
    assert parsed.spanning == 1


def test_a_row_over_lines_is_rejected_whole(tmp_path: Path) -> None:
    parsed = read(tmp_path, HEADER + b'"one\n\xff two\n",x\n"a\nb",x,too many\nlast,y\n')
    assert rejected(parsed) == [(2, "not UTF-8"), (5, "wrong number of fields")]
    assert parsed.rows == [["last", "y"]]


def test_an_open_quote_looks_no_further_than_a_line_may_be_long(tmp_path: Path) -> None:
    filler = b"".join(b"text number %d,x\n" % index for index in range(50))
    parsed = read(tmp_path, HEADER + b'"open,x\n' + filler + b'shut",x\n', max_line_bytes=200)
    assert rejected(parsed) == [(2, "quote not closed")]
    assert len(parsed.rows) == 51


def test_a_long_line_is_not_held_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "data.csv"
    path.write_bytes(HEADER + b"a,x\n" + b"b" * 20_000_000 + b",x\nc,y\n")
    data = Data.model_validate({"source": {"file": str(path)}, "text": "text", "label": "label"})
    tracemalloc.start()
    parsed = parse(path, data, "data.csv")
    table = write_rejects(tmp_path / "rejects", [("data.csv", path, parsed.rejects)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert parsed.rows == [["a", "x"], ["c", "y"]]
    assert table.read_text() == "file,line,reason,offset,length\ndata.csv,3,line longer than 100000 bytes,0,20000003\n"
    assert (tmp_path / "rejects" / "rejects.bin").stat().st_size == 20_000_003


@pytest.mark.parametrize("length", [499, 500, 501, 502, 503])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_longest_line(tmp_path: Path, length: int, end: bytes) -> None:
    parsed = read(tmp_path, HEADER + b"a" * (length - 2) + b",x" + end, max_line_bytes=500)
    assert (len(parsed.rows), len(parsed.rejects)) == ((1, 0) if length <= 500 else (0, 1))


def test_encodings(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf" + HEADER + "é,x\n".encode()).rows == [["é", "x"]]
    assert read(tmp_path, b"\xef\xbb\xbf" + HEADER + "é,x\n".encode(), encoding="utf-8-sig").rows == [["é", "x"]]
    assert read(tmp_path, HEADER + "é,x\n".encode("latin-1"), encoding="latin-1").rows == [["é", "x"]]
    korean = read(tmp_path, HEADER + "가,x\n".encode("cp949") + b"\xff,y\n", encoding="cp949")
    assert (korean.rows, rejected(korean)) == ([["가", "x"]], [(3, "not CP949")])
    with pytest.raises(
        RecipeError, match=r"data.encoding: 'utf-9' is no encoding that Python knows .expected: utf-8, for example.. Fix: correct it"
    ):
        read(tmp_path, HEADER, encoding="utf-9")
    with pytest.raises(
        RecipeError, match=r"data.encoding: utf-16 writes line ends in its own way \(expected: one like utf-8\)\. Fix: convert"
    ):
        read(tmp_path, HEADER, encoding="utf-16")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "data.csv: the file is empty (expected: a header and rows). Fix: look at the source"),
        (b"\n\n", "data.csv: the file is empty (expected: a header and rows). Fix: look at the source"),
        (b"\xff\xfet,l\n", "data.csv: line 1, the header: not UTF-8 (expected: a line of column names). Fix: mend the file, or correct"),
        (b"text,text,label\n", "data.csv: column 'text' stands more than once (expected: distinct column names). Fix: rename it"),
        (b"Text,label\na,b\n", "data.csv: columns 'Text', 'label' (expected: a column 'text'). Fix: did you mean 'Text'?"),
        (
            b"a,b\n",
            "data.csv: columns 'a', 'b' (expected: a column 'text'). Fix: correct the columns that data and labels name, or data.delimiter",
        ),
        (
            b"text;label\na;b\n",
            "data.csv: one column 'text;label' with delimiter ',' (expected: columns 'text' and 'label'). Fix: set data.delimiter to ';'",
        ),
        (b"text\tlabel\n", r"set data.delimiter to '\t'"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, raw)
    assert message in str(error.value)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@given(rows=st.lists(st.tuples(TEXT, st.text(",;\"'\r\n \té가", max_size=6)), max_size=12), end=st.sampled_from(["\n", "\r\n"]))
def test_parsing_inverts_writing(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    parsed = read(tmp_path_factory.mktemp("rows"), text.getvalue().encode())
    assert (parsed.rows, parsed.rejects) == ([list(row) for row in rows], [])


@given(lines=st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b'"'))), end=st.sampled_from([b"\n", b"\r\n"]))
def test_every_byte_is_in_one_row_or_reject(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes) -> None:
    folder = tmp_path_factory.mktemp("rows")
    parsed = read(folder, HEADER + end.join(lines))
    whole = (folder / "data.csv").read_bytes()
    places = sorted([*parsed.places, *(reject.place for reject in parsed.rejects)], key=lambda place: place.start)
    covered = len(HEADER)
    for place in places:
        assert not whole[covered : place.start].strip(b"\r\n")
        assert whole[: place.start].count(b"\n") + 1 == place.line
        covered = place.start + place.length
    assert not whole[covered:].strip(b"\r\n")
    write_rejects(folder, [("data.csv", folder / "data.csv", [Reject(place, "all") for place in places])])
    assert (folder / "rejects.bin").read_bytes() == b"".join(whole[place.start : place.start + place.length] for place in places)


def test_numbers() -> None:
    assert [number(text) for text in ("0.5", " 1 ", "1e-3", "nan", "", "1_000", "x")] == [0.5, 1.0, 0.001, None, None, None, None]


def test_real_files_read_as_pandas_reads_them(mirror: Path) -> None:
    import pandas as pd

    for name, delimiter, text, label, count in (
        ("ethos/Ethos_Dataset_Binary.csv", ";", "comment", "isHate", 998),
        ("informes_discriminacion_gitana/informe_completo_score.csv", ",", "hechos", "resultado", 3397),
    ):
        path = mirror / name
        parsed = parse(path, Data.model_validate({"source": {"mirror": name}, "delimiter": delimiter, "text": text, "label": label}), name)
        frame = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False)
        assert len(parsed.rows) == count
        assert parsed.rejects == []
        assert parsed.rows == frame.to_numpy().tolist()
