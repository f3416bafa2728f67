"""Rows come out in order with their places; a row that cannot be read is named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.io import readers
from seqpack.io.readers import read_records, resolve_inputs

ROWS = [{"instruction": f"Say {n}.", "output": "été " * n, "history": [["a", "b"]] * (n % 3)} for n in range(7)]


def test_jsonl_counts_lines_not_rows(write_jsonl):
    path = write_jsonl(['{"a": 1}', "", "   ", '{"a": 2}', "\t"])
    records = list(read_records(path))
    assert [(record.line, record.value) for record in records] == [(1, {"a": 1}), (4, {"a": 2})]
    assert records[1].key == f"{path}:4" and records[1].file == path


@pytest.mark.parametrize(
    "raw", [b'{"a": 1}', b'{"a": 1}\r\n', b'\xef\xbb\xbf{"a": 1}\n'], ids=["no end", "crlf", "bom"]
)
def test_jsonl_of_other_programs(tmp_path, raw):
    path = tmp_path / "x.jsonl"
    path.write_bytes(raw)
    assert [record.value for record in read_records(path)] == [{"a": 1}]


def test_an_empty_file_has_no_rows(write_jsonl):
    assert list(read_records(write_jsonl([]))) == []


def test_rows_that_are_no_objects_are_read_as_they_are(write_jsonl):
    assert [record.value for record in read_records(write_jsonl(["[1]", "3", "null", '"x"']))] == [[1], 3, None, "x"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', "column 7: Expecting value"),
        (b'{"a": 1', "column 8"),
        (b'{"a": "\xff\xfe"}', "utf-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
    ids=["no value", "cut off", "not utf-8", "deep", "huge number"],
)
def test_a_broken_line_is_named(tmp_path, line, reason):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    records = read_records(path)
    assert next(records).value == {"a": 1}
    with pytest.raises(DataError, match=reason) as error:
        next(records)
    assert error.value.code == "SP103"
    assert f"{path}:3" in error.value.message


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.mkdir()  # tests may run as root, who may read everything but a folder
    with pytest.raises(DataError, match="unreadable after line 0") as error:
        list(read_records(path))
    assert error.value.code == "SP103"


@pytest.mark.parametrize("rows_per_group", [2, 100])
def test_the_same_rows_are_the_same_records_in_every_kind_of_file(tmp_path, write_jsonl, monkeypatch, rows_per_group):
    monkeypatch.setattr(readers, "ROWS_PER_BATCH", 3)
    parquet = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet, row_group_size=rows_per_group)
    from_parquet, from_jsonl = (list(read_records(path)) for path in (parquet, write_jsonl(ROWS)))
    assert [record.value for record in from_parquet] == [record.value for record in from_jsonl] == ROWS
    assert [record.line for record in from_parquet] == list(range(1, 8))


@pytest.mark.parametrize("damage", ["not parquet", "cut off", "empty", "garbage inside"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 500), path)
    raw = path.read_bytes()
    path.write_bytes(
        {"not parquet": b"hello", "cut off": raw[:-100], "empty": b""}.get(damage, raw[:4] + b"\xee" * 900 + raw[904:])
    )
    with pytest.raises(DataError, match=r"x\.parquet: unreadable after row") as error:
        list(read_records(path))
    assert error.value.code == "SP103"


def test_a_folder_stands_for_its_data_files_by_name(tmp_path, write_jsonl):
    for name in ("b.jsonl", "a.jsonl", "notes.txt", ".hidden.jsonl"):
        write_jsonl([], f"folder/{name}")
    assert [path.name for path in resolve_inputs([tmp_path / "folder"])] == ["a.jsonl", "b.jsonl"]


def test_files_keep_the_order_they_were_named_in(write_jsonl):
    paths = [write_jsonl([], name) for name in ("b.jsonl", "a.jsonl")]
    assert resolve_inputs(paths) == paths


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [("missing.jsonl", DataError, "SP101"), ("empty", DataError, "SP101"), ("notes.txt", ConfigError, "SP009")],
)
def test_what_is_no_input_is_named(tmp_path, name, error, code):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(error, match=name) as raised:
        resolve_inputs([tmp_path / name])
    assert raised.value.code == code
