"""JSON Lines and JSON arrays: every row with its place, every fault with its place and its reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.io.readers import read_records, streams

ROWS = [{"a": 1}, {"b": 'x, ]\n"[{'}, [1, [2]], "text", 3, -0.5e3, None, True, {}, [], {"c": {"d": ["\\", "é😀"]}}]


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | str, name: str):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def values(path) -> list[object]:
    return [record.value for record in read_records(path)]


def test_lines_are_counted_not_rows(write):
    path = write('{"a": 1}\n\n   \n{"a": 2}\n\t\n', "x.jsonl")
    records = list(read_records(path))
    assert [(record.line, record.value) for record in records] == [(1, {"a": 1}), (4, {"a": 2})]
    assert records[1].key == f"{path}:4" and records[1].file == path


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize(
    "raw",
    [b'{"a": 1}', b'{"a": 1}\r\n', b'\xef\xbb\xbf{"a": 1}\n', b'\n\n  {"a": 1}'],
    ids=["end", "crlf", "bom", "lf"],
)
def test_lines_of_other_programs(write, raw, name):
    assert values(write(raw, name)) == [{"a": 1}]


@pytest.mark.parametrize("raw", [b'[{"a": 1}]', b'\xef\xbb\xbf[{"a": 1}]\r\n', b'\n [\r\n{"a"\n:1}\r\n]\n'])
def test_arrays_of_other_programs(write, raw):
    assert values(write(raw, "x.json")) == [{"a": 1}]


def test_rows_that_are_no_objects_are_read_as_they_are(write):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    assert values(write(lines, "x.jsonl")) == ROWS
    assert values(write(json.dumps(ROWS), "x.json")) == ROWS


def test_an_array_without_elements(write):
    assert values(write("[ ]\n", "x.json")) == []


@given(
    rows=st.lists(st.sampled_from(ROWS) | st.integers() | st.text(max_size=9), max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    size=st.integers(1, 40),
)
def test_an_array_is_the_same_wherever_the_chunks_end(tmp_path_factory, rows, indent, ascii_only, size):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", size)
        assert values(path) == rows


def test_an_element_longer_than_a_chunk(write):
    rows = [{"a": "x" * 3_000_000}, {"a": ["y" * 600_000] * 3}, 1]
    assert values(write(json.dumps(rows), "x.json")) == rows


@pytest.mark.parametrize("depth", [300, 900])
def test_a_line_may_be_nested_deeply(write, depth):
    (record,) = read_records(write(b'{"a": ' + b"[" * depth + b"]" * depth + b"}\n", "x.jsonl"))
    assert str(record.value["a"]).count("[") == depth


def test_a_line_of_fifty_megabytes(write):
    path = write(b'{"a": "' + b"x" * 50_000_000 + b'"}\n{"a": 2}\n', "x.jsonl")
    first, second = read_records(path)
    assert len(first.value["a"]) == 50_000_000 and second.line == 2


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.txt", "x.csv"])
def test_a_line_without_end_does_not_fill_the_memory(write, monkeypatch, name):
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 1 << 16)
    start = {"x.json": b"[1,\n", "x.csv": b"a\n", "x.txt": b"a\n", "x.jsonl": b"1\n"}[name]
    with pytest.raises(DataError, match=r":2 is longer than 1 MiB") as error:
        values(write(start + b'"' + b"x" * 9_000_000, name))
    assert error.value.code == "SP103"


BROKEN = {
    "no value": (b'{"a": }', "Expecting value"),
    "cut off": (b'{"a": 1', "Expecting ',' delimiter|property name"),
    "cut off in a text": (b'{"a": "b', "Unterminated string|Invalid control character"),
    "not utf-8": (b'{"a": "\xff\xfe"}', r"not UTF-8 text \(byte 0xff\)"),
    "half a pair in utf-8": (b'{"a": "\xed\xa0\xbd"}', r"not UTF-8 text \(byte 0xed\)"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "deep object": (b'{"a":' * 200_000, "nested too deeply"),
    "deep with an escape": (b"[" * 5000 + b'"\\ud83d"' + b"]" * 5000, "nested too deeply"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    "duplicate key": (b'{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' stands twice"),
    "duplicate key behind blanks": (b'{"a" \t : 1, "a": 2}', "the key 'a' stands twice"),
    "NUL bytes": (b"\0\0\0\0", "NUL bytes, which a crash"),
    "NUL in a text": (b'{"a": "b\0c"}', "Invalid control character.*NUL bytes"),
    "bad escape": (b'{"a": "\\x"}', "escape"),
    "comment": (b'{"a": 1} // one', r"Extra data|followed by '/'"),
    "single quotes": (b"{'a': 1}", "property name"),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(write, line, reason):
    path = write(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n', "x.jsonl")
    records = read_records(path)
    assert next(records).value == {"a": 1}
    with pytest.raises(DataError, match=reason) as error:
        next(records)
    assert error.value.code == "SP103"
    assert f"{path}:3" in error.value.message


@pytest.mark.parametrize("size", [7, 1 << 18])
@pytest.mark.parametrize(("element", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_element_is_named(write, monkeypatch, element, reason, size):
    if size == 7 and len(element) > 1000:
        size = 999  # deep nesting in small pieces only takes long
    monkeypatch.setattr(streams, "CHUNK_BYTES", size)
    path = write(b'[{"a": 1},\n{"a": 2},\n' + element + b',\n{"a": 3}\n]', "x.json")
    records = read_records(path)
    with pytest.raises(DataError, match=reason) as error:
        list(records)
    assert error.value.code == "SP103"
    assert f"{path}:" in error.value.message


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("[1, 2", r":1 is not valid JSON \(element 2 is followed by ''.*cut off"),
        ("[1,\n2,", r":3 \(an array element, from line 2\) is not valid JSON \(Expecting value"),
        ("[", r":1 .*Expecting value"),
        ("[1,\n2,]", r":3 \(an array element, from line 2\) is not valid JSON"),
        ("[1\n2]", r":2 is not valid JSON \(element 1 is followed by '2'"),
        ("[1]\n[2]", r":2 is not valid JSON \('\[' after the \]"),
        ('"text"', "neither a JSON array nor one object per line"),
        ('{\n "a": 1\n}\n', "x.json:1 is not valid JSON"),
        ('{"data": [\n{"a": 1}\n]}\n', "x.json:1 is not valid JSON"),
    ],
)
def test_what_is_no_array_and_no_lines(write, raw, reason):
    with pytest.raises(DataError, match=reason) as error:
        values(write(raw, "x.json"))
    assert error.value.code == "SP103"


def test_other_forms_of_json_are_told_what_to_do(write):
    for raw, name, help in [
        ('{\n "a": 1\n}\n', "x.json", "write one object per line, or put all rows between"),
        ('[\n{"a": 1}\n]', "x.jsonl", "call it .json"),
        ('[{"a": 1},\n{"a": 2}]', "x.jsonl", "call it .json"),
        ('{"data": [\n{"a": 1}\n]}\n', "x.json", "one object per line"),
    ]:
        with pytest.raises(DataError) as error:
            values(write(raw, name))
        assert help in error.value.help


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_a_surrogate_pair_is_mended_and_counted(write, name):
    text = r'{"a": "\ud83d", "b": "\uD83D\uDE00", "c": ["\\ud800", "\udc00\ud800"]}'
    (record,) = read_records(write(f"[{text}]" if name == "x.json" else text, name))
    assert record.value == {"a": "\ufffd", "b": "😀", "c": [r"\ud800", "\ufffd\ufffd"]}
    assert record.num_mended == 3


def test_escaped_nul_is_a_character(write):
    assert values(write(r'{"a": "\u0000"}', "x.jsonl")) == [{"a": "\0"}]
