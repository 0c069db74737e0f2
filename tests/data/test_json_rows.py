"""JSON files, packed files, and the other forms of delimited ones: bytes to rows."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.read_file import ParsedFile, parse, write_rejects
from tasks.errors import DataError
from tasks.schema.data import Data


def read(folder: Path, raw: bytes, name: str = "data.json", **keys: object) -> ParsedFile:
    path = folder / name
    path.write_bytes(raw)
    return parse(path, Data.model_validate({"source": {"file": str(path)}, "text": "text", "label": "label", **keys}), name)


def rejected(parsed: ParsedFile) -> list[tuple[int, str]]:
    return [(reject.place.line, reject.reason) for reject in parsed.rejects]


BAD = [
    ('{"text": "a"}', "no field label"),
    ('{"text": ["a"], "label": "x"}', "text is not a text"),
    ('["a", "x"]', "not an object"),
    ('{"text": "a", "text": "b", "label": "x"}', "a field stands twice"),
    ('{"text": "\\ud83d", "label": "x"}', "half of a surrogate pair"),
    ('{"text": "\udcff", "label": "x"}', "not UTF-8"),
]
GOOD = '{"text": "é \\ud83d\\ude00", "label": 1.50, "more": {"b": null}}'
ROW = ["é 😀", "1.50", '{"b": null}']


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_object_costs_itself_only(tmp_path: Path, bad: str, reason: str) -> None:
    array = as_bytes(f"\ufeff [\n{GOOD} ,{bad},\n {GOOD}]\n")
    parsed = read(tmp_path, array, format="json")
    assert (parsed.columns[:2], [row[:2] for row in parsed.rows], rejected(parsed)) == (["text", "label"], [ROW[:2]] * 2, [(2, reason)])
    assert [place.line for place in parsed.places] == [1, 3]
    for place, text in zip((parsed.places[0], parsed.rejects[0].place, parsed.places[1]), (GOOD, bad, GOOD), strict=True):
        assert array[place.start : place.start + place.length] == as_bytes(text)
    lines = as_bytes(f"{GOOD}\r\n\n{bad}\n{GOOD}")
    parsed = read(tmp_path, lines, format="jsonl")
    assert ([row[:2] for row in parsed.rows], rejected(parsed)) == ([ROW[:2]] * 2, [(3, reason)])
    place = parsed.rejects[0].place
    assert lines[place.start : place.start + place.length] == as_bytes(bad + "\n")


def test_what_is_no_json_costs_its_line(tmp_path: Path) -> None:
    parsed = read(tmp_path, f"{GOOD}\n{{'text': 1}}\n{'[' * 50_000}\n{GOOD} {GOOD}\n{GOOD}\n".encode(), format="jsonl")
    assert (parsed.rows, rejected(parsed)) == ([ROW, ROW], [(2, "not JSON"), (3, "not JSON"), (4, "not JSON")])


def test_long_objects(tmp_path: Path) -> None:
    long = json.dumps({"text": "a" * 500, "label": "x"})
    parsed = read(tmp_path, f"[{GOOD},{long}]".encode(), format="json", max_line_bytes=200)
    assert (len(parsed.rows), rejected(parsed)) == (1, [(2, "object longer than 200 bytes")])
    parsed = read(tmp_path, f"{GOOD}\n{long}\n".encode(), format="jsonl", max_line_bytes=200)
    assert (len(parsed.rows), rejected(parsed)) == (1, [(2, "line longer than 200 bytes")])


def test_fields_that_some_objects_lack(tmp_path: Path) -> None:
    parsed = read(tmp_path, b'{"text": null, "label": true, "a": 1}\n{"b": "c", "label": "", "text": "t"}\n', format="jsonl")
    assert parsed.columns == ["text", "label", "a", "b"]
    assert parsed.rows == [["", "true", "1", ""], ["t", "", "", "c"]]


@pytest.mark.parametrize(
    ("raw", "form", "message"),
    [
        (b"", "json", "data.json: the file is empty (expected: objects). Fix: look at the source"),
        (b" [ ]\n", "json", "data.json: the file is empty (expected: objects)"),
        (b"\n\n", "jsonl", "data.json: the file is empty (expected: objects)"),
        (
            GOOD.encode(),
            "json",
            "data.json: begins with '{' (expected: an array of objects). Fix: set data.format to jsonl where each line",
        ),
        (f"[{GOOD},]".encode(), "json", "data.json: object 2 at byte 65 is not readable (Expecting value) (expected: an array of objects)"),
        (f"[{GOOD} {GOOD}]".encode(), "json", "after object 1 stands something else than the array's next or its end"),
        (f"[{GOOD}] x".encode(), "json", "after object 1 stands something else"),
        (f"[{GOOD}".encode(), "json", "after object 1 stands something else"),
        (b"[" + b'{"a":' * 50_000, "json", "object 1 at byte 1 is not readable (nested too deep)"),
        (b'[{"texts": "a", "label": "b"}]', "json", "a column 'text'). Fix: did you mean 'texts'?"),
        (b'{"a": "b"}', "jsonl", "a column 'text'). Fix: correct the columns that data and labels name"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, raw: bytes, form: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, raw, format=form)
    assert message in str(error.value)


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), plain=st.booleans(), indent=st.sampled_from([None, 2]))
def test_parsing_inverts_writing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], plain: bool, indent: int | None
) -> None:
    folder, objects = tmp_path_factory.mktemp("rows"), [{"text": text, "label": label} for text, label in rows]
    raw = json.dumps(objects, ensure_ascii=plain, indent=indent).encode()
    parsed = read(folder, raw, format="json")
    assert (parsed.rows, parsed.rejects) == ([list(row) for row in rows], [])
    assert [json.loads(raw[place.start : place.start + place.length]) for place in parsed.places] == objects
    lines = "\n".join(json.dumps(each, ensure_ascii=plain) for each in objects).encode()
    assert read(folder, lines, format="jsonl").rows == parsed.rows


def test_a_packed_file(tmp_path: Path) -> None:
    raw = f"{GOOD}\nnothing\n{GOOD}\nnothing more".encode()
    parsed = read(tmp_path, gzip.compress(raw), "data.jsonl.gz", format="jsonl")
    assert (parsed.rows, rejected(parsed)) == ([ROW, ROW], [(2, "not JSON"), (4, "not JSON")])
    table = write_rejects(tmp_path / "rejects", [("data.jsonl.gz", tmp_path / "data.jsonl.gz", parsed.rejects)])
    assert (table.parent / "rejects.bin").read_bytes() == b"nothing\nnothing more"
    assert read(tmp_path, gzip.compress(b"text,label\na,x\n"), "data.csv.gz").rows == [["a", "x"]]


@pytest.mark.parametrize("raw", [b"text,label\na,x\n", gzip.compress(b"text,label\n" + b"a,x\n" * 999)[:-9]], ids=["plain", "cut"])
def test_a_file_that_cannot_be_unpacked(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(
        DataError, match=r"data.csv.gz: cannot be unpacked \(.*\) \(expected: a whole gzip file\)\. Fix: look at the source"
    ):
        read(tmp_path, raw, "data.csv.gz")


def test_quotes_as_characters(tmp_path: Path) -> None:
    raw = b'text\tlabel\n"open\tx\n"a"b\t"y"\nan "inner" one\tz\ra\tb\nlast\tz\n'
    parsed = read(tmp_path, raw, delimiter="\t", quoting=False)
    assert parsed.rows == [['"open', "x"], ['"a"b', '"y"'], ["last", "z"]]
    assert rejected(parsed) == [(4, "carriage return outside quotes")]


def test_a_file_without_a_header(tmp_path: Path) -> None:
    parsed = read(tmp_path, b"a,x\nb,y,z\nc,w\n", header=["text", "label"])
    assert (parsed.rows, rejected(parsed)) == ([["a", "x"], ["c", "w"]], [(2, "wrong number of fields")])
    with pytest.raises(DataError, match=r"columns 'id', 'label' \(expected: a column 'text'\)"):
        read(tmp_path, b"a,x\n", header=["id", "label"])
