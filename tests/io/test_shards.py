"""Shards hold every row once, with the line it stands on, however small they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.io import shards
from seqpack.io.readers import read_records
from seqpack.io.shards import Shard, cut, estimate, read_shard, whole_files

LINES = st.lists(st.sampled_from(["{}", "", "   ", '{"a": "' + "x" * 40 + '"}', '"é\\u2028"', "[1, 2]"]), max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shards")


def read(parts: list[Shard]) -> list[tuple[int, Path, int, object]]:
    return [(part.number, record.file, record.line, record.value) for part in parts for record in read_shard(part)]


@given(lines=LINES, end=st.sampled_from(["", "\n", "\r\n"]), size=st.integers(1, 60))
def test_json_lines_are_cut_between_lines(folder, lines, end, size):
    first, second = folder / "first.jsonl", folder / "second.jsonl"
    first.write_text("\n".join(lines) + end, encoding="utf-8")
    second.write_text('{"b": 1}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", size)
        parts = list(cut([first, second]))
    assert read(parts) == read(list(whole_files([first, second])))
    if size == 1:
        assert sum(part.file == first for part in parts) >= first.read_bytes().count(b"\n")


@pytest.mark.parametrize("size", [1, 200, 10**9])
def test_parquet_is_cut_between_row_groups(tmp_path, monkeypatch, size):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(10))}), path, row_group_size=3)
    monkeypatch.setattr(shards, "SHARD_BYTES", size)
    parts = list(cut([path]))
    assert len(parts) == {1: 4, 10**9: 1}.get(size, len(parts))
    assert [record.line for part in parts for record in read_shard(part)] == list(range(1, 11))
    assert [record.value for part in parts for record in read_shard(part)] == [r.value for r in read_records(path)]


def test_parquet_without_rows(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    assert read(list(cut([path]))) == []


def test_a_file_that_is_no_parquet(tmp_path, monkeypatch):
    (tmp_path / "bad.parquet").write_text("no parquet at all")
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    with pytest.raises(DataError, match=r"bad\.parquet: unreadable after row 0") as error:
        list(cut([tmp_path / "bad.parquet"]))
    assert error.value.code == "SP103"


def test_small_files_are_one_shard(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"a": 1}))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert list(cut([file])) == [Shard(file, 0, end=8, digest=digest)]
    assert estimate([file]) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_the_digest_of_the_last_shard_is_that_of_the_file(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.write_text("[]" if name == "a.json" else '{"a": 1}\n' * 9)
    if name == "a.parquet":
        pq.write_table(pa.table({"a": list(range(50))}), file, row_group_size=10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 20)
    cuts = list(cut([file]))
    assert [shard.index for shard in cuts] == list(range(len(cuts)))
    assert cuts[-1].digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_empty_file_is_one_shard(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (shard,) = cut([tmp_path / "a.jsonl"])
    assert read([shard]) == []


def test_a_broken_line_is_named_by_its_number_in_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n{}\n{}\n{\n")
    monkeypatch.setattr(shards, "SHARD_BYTES", 3)
    with pytest.raises(DataError, match=r"a\.jsonl:4 is not valid JSON"):
        read(list(cut([path])))
