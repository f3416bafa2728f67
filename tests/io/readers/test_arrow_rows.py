"""Parquet and Arrow files, whole and damaged."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqpack.core.errors import DataError
from seqpack.io.readers import arrow_rows, read_records

ROWS = [{"instruction": f"Say {n}.", "output": "été " * n, "history": [["a", "b"]] * (n % 3)} for n in range(7)]


def write_stream(table: pa.Table, path, rows_per_batch=None) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, rows_per_batch)


def write_file(table: pa.Table, path, rows_per_batch=None) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, rows_per_batch)


WRITERS = {
    "x.parquet": lambda table, path, rows=None: pq.write_table(table, path, row_group_size=rows),
    "stream.arrow": write_stream,
    "file.arrow": write_file,
}

KINDS = pytest.mark.parametrize("name", WRITERS)


@KINDS
@pytest.mark.parametrize("rows_per_batch", [2, 100])
def test_rows_do_not_depend_on_batches(tmp_path, monkeypatch, name, rows_per_batch):
    monkeypatch.setattr(arrow_rows, "ROWS_PER_BATCH", 3)
    WRITERS[name](pa.Table.from_pylist(ROWS), tmp_path / name, rows_per_batch)
    records = list(read_records(tmp_path / name))
    assert [record.value for record in records] == ROWS
    assert [record.line for record in records] == list(range(1, 8))


@KINDS
def test_a_file_without_rows(tmp_path, name):
    WRITERS[name](pa.table({"a": pa.array([], pa.string())}), tmp_path / name)
    assert list(read_records(tmp_path / name)) == []


@KINDS
def test_nulls_and_other_types_are_handed_on(tmp_path, name):
    table = pa.table(
        {
            "a": pa.array(["x", None]).dictionary_encode(),
            "b": pa.array([b"\xff", None]),
            "c": pa.array([1.5, None]),
            "d": pa.array(["y" * 9, ""], pa.large_string()),
        }
    )
    WRITERS[name](table, tmp_path / name)
    assert [record.value for record in read_records(tmp_path / name)] == [
        {"a": "x", "b": b"\xff", "c": 1.5, "d": "yyyyyyyyy"},
        {"a": None, "b": None, "c": None, "d": ""},
    ]


@KINDS
def test_text_that_is_not_utf8_is_named(tmp_path, name):
    text = pa.array([b"a", b"b\xff", b"c"]).view(pa.string())
    WRITERS[name](pa.table({"a": text}), tmp_path / name)
    with pytest.raises(DataError, match=r"utf-8|UTF8") as error:
        list(read_records(tmp_path / name))
    assert error.value.code == "SP103" and name in error.value.message
    if name == "x.parquet":
        assert f"{name}:2 cannot be read" in error.value.message


@KINDS
def test_columns_of_one_name(tmp_path, name):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], ["a", "a"])
    WRITERS[name](table, tmp_path / name)
    with pytest.raises(DataError, match="two columns are called 'a'"):
        list(read_records(tmp_path / name))


@KINDS
@pytest.mark.parametrize("damage", ["other kind", "cut off", "half", "empty", "garbage inside", "magic only"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    path = tmp_path / name
    WRITERS[name](pa.Table.from_pylist(ROWS * 500), path)
    raw = path.read_bytes()
    damaged = {
        "other kind": b"hello",
        "cut off": raw[:-100],
        "half": raw[: len(raw) // 2],
        "empty": b"",
        "garbage inside": raw[:8] + b"\xee" * 2900 + raw[2908:],
        "magic only": b"ARROW1",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(DataError, match=r"unreadable after row") as error:
        list(read_records(path))
    assert error.value.code == "SP103" and f"{path}" in error.value.message


@KINDS
def test_damage_at_random_never_ends_in_anything_but_our_errors(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](pa.Table.from_pylist([row | {"more": json.dumps(row)} for row in ROWS] * 20), path, 30)
    raw, chance = path.read_bytes(), random.Random(5)
    errors: list[DataError] = []
    for _ in range(150):
        damaged = bytearray(raw)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(raw), chance.randrange(len(raw))])])
        try:
            rows = list(read_records(path))
        except DataError as error:
            errors.append(error)
        else:  # text that became other text, which nothing in the file can tell
            assert len(rows) == len(ROWS) * 20
    assert len(errors) > 50
    assert {(error.code, f"{path}" in error.message) for error in errors} == {("SP103", True)}


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow", "x.parquet"])
def test_no_part_of_a_file_looks_whole(tmp_path, name):
    """Wherever it is cut off, also between two batches; and two streams in one file are not the first of them."""
    path = tmp_path / name
    WRITERS[name](pa.table({"a": ["x" * 9] * 6}), path, 2)
    raw = path.read_bytes()
    assert len(list(read_records(path))) == 6
    for damaged in (*(raw[:size] for size in range(len(raw))), raw + raw[: len(raw) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="unreadable after row"):
            list(read_records(path))
