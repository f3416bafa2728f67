"""Whatever bytes a file holds, reading it gives rows or our own error that names the file."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.io.readers import read_records, streams

PIECES = [
    b'{"a": ',
    b"[",
    b"]",
    b"}",
    b",",
    b'"',
    b"\n",
    b"\r",
    b"\\",
    b"\\ud83d",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\0",
    b"1e",
]
BYTES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12).map(b"".join)


def read(path) -> None:
    """Read all rows, whose text must be Unicode, or see an error that names the file."""
    try:
        for record in read_records(path):
            repr(record.value).encode()
    except DataError as error:
        if error.code != "SP103" or path.name not in error.message:
            raise AssertionError(f"not an error about a file: {error}") from error


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.json", "x.csv", "x.txt", "x.jsonl.gz", "x.txt.zst", "x.arrow", "x.parquet"]
)
@given(content=BYTES, size=st.integers(1, 20))
def test_any_bytes(tmp_path_factory, name, content, size):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", size)
        read(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt"])
def test_damage_at_random(tmp_path, name):
    raw = b'[\n{"a": "x, y", "b": [1, 2.5, null]},\n{"a": "\xc3\xa9", "b": {}}\n]\n' * 3
    path, chance = tmp_path / name, random.Random(7)
    for _ in range(200):
        damaged = bytearray(raw)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.randrange(len(raw))])
        read(path)
