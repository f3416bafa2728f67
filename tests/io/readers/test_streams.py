"""Compressed files give the same text; whatever is wrong with the bytes is named."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pytest

from seqpack.core.errors import DataError
from seqpack.io.readers import read_records, streams

TEXT = "".join(f'{{"a": "row {n} é"}}\n' for n in range(20_000)).encode()


def zstd(raw: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


COMPRESSED = pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd)])


@COMPRESSED
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_compressed_text_is_the_same_text(tmp_path, suffix, compress, kind):
    plain, packed = tmp_path / f"x{kind}", tmp_path / f"x{kind}{suffix}"
    plain.write_bytes(TEXT if kind != ".csv" else TEXT.replace(b'"', b""))
    packed.write_bytes(compress(plain.read_bytes()))
    first, second = ([(record.line, record.value) for record in read_records(path)] for path in (plain, packed))
    assert first == second and len(first) >= 19_999


@COMPRESSED
def test_parts_one_after_the_other(tmp_path, suffix, compress):
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(compress(b'{"a": 1}\n') + compress(b'{"a": 2}\n'))
    assert [record.value["a"] for record in read_records(path)] == [1, 2]


@COMPRESSED
@pytest.mark.parametrize("kind", [".jsonl", ".json"])
@pytest.mark.parametrize("damage", ["cut off", "last byte", "half", "no bytes", "not compressed", "junk behind"])
def test_damaged_compressed_files(tmp_path, suffix, compress, kind, damage):
    raw = compress(TEXT)
    path = tmp_path / f"x{kind}{suffix}"
    damaged = {
        "cut off": raw[:-100],
        "last byte": raw[:-1],
        "half": raw[: len(raw) // 2],
        "no bytes": b"",
        "not compressed": TEXT,
        "junk behind": raw + b"junk",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(DataError, match=r"unreadable after line \d+ \(.+\)") as error:
        list(read_records(path))
    assert error.value.code == "SP103" and str(path) in error.value.message


def test_flipped_bits_in_gzip_are_noticed(tmp_path):
    raw = bytearray(gzip.compress(TEXT))
    for place in range(20, len(raw), len(raw) // 15):
        path = tmp_path / "x.jsonl.gz"
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        with pytest.raises(DataError):
            list(read_records(path))


@pytest.mark.parametrize(
    ("raw", "help"),
    [
        (gzip.compress(TEXT), "ending .gz"),
        (zstd(TEXT), "ending .zst"),
        ("\ufeff[1]".encode("utf-16-le"), "UTF-16"),
        ('{"a": "é"}'.encode("latin-1"), "save the file as UTF-8"),
    ],
    ids=["gzip", "zstd", "utf-16", "latin-1"],
)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_other_files_under_a_name_for_text(tmp_path, raw, help, kind):
    path = tmp_path / f"x{kind}"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=":1 is not UTF-8 text") as error:
        list(read_records(path))
    assert help in error.value.help


@pytest.mark.parametrize("size", [5, 1 << 18])
def test_text_that_is_not_utf8_is_named_in_chunks_too(tmp_path, monkeypatch, size):
    monkeypatch.setattr(streams, "CHUNK_BYTES", size)
    path = tmp_path / "x.json"
    path.write_bytes(b'[\n"caf\xc3\xa9",\n"caf\xe9"]')
    with pytest.raises(DataError, match=r"x\.json:3 is not UTF-8 text \(byte 0xe9\)"):
        list(read_records(path))


def test_text_that_ends_within_a_character(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'["a",\n"\xc3')
    with pytest.raises(DataError, match=r"x\.json:2 is not UTF-8 text"):
        list(read_records(path))
