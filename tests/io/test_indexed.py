"""IndexedDataset files: exact bytes, round trips, and damage that is noticed."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError, FormatError
from seqpack.io.indexed import DTYPES, IndexedDataset, IndexedWriter, bin_path, idx_path
from tests.conftest import GOLDEN


def write(prefix: Path, *sequences: list[int], dtype=np.int32) -> Path:
    with IndexedWriter(prefix, dtype) as writer:
        for sequence in sequences:
            writer.append(np.array(sequence, dtype), [len(sequence)])
    return prefix


def test_bytes_by_hand(tmp_path):
    prefix = write(tmp_path / "x", [1, -100], [], [7])
    assert bin_path(prefix).read_bytes() == struct.pack("<3i", 1, -100, 7)
    header = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + b"\x04" + struct.pack("<QQ", 3, 4)
    assert idx_path(prefix).read_bytes() == (
        header + struct.pack("<3i", 2, 0, 1) + struct.pack("<3q", 0, 8, 8) + struct.pack("<4q", 0, 1, 2, 3)
    )


@given(
    st.lists(st.lists(st.lists(st.integers(0, 100), max_size=5), max_size=4), max_size=4),
    st.sampled_from(sorted(DTYPES.values(), key=str)),
)
def test_what_is_written_is_read(batches, dtype):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "a.b")  # a name with a dot is not a name with an ending
        with IndexedWriter(prefix, dtype) as writer:
            for batch in batches:
                writer.append(
                    np.array([token for sequence in batch for token in sequence], dtype), list(map(len, batch))
                )
        dataset = IndexedDataset(prefix)
        sequences = [sequence for batch in batches for sequence in batch]
        assert [sequence.tolist() for sequence in dataset] == sequences
        assert len(dataset) == len(sequences) and dataset.dtype == dtype
        assert dataset.lengths.tolist() == list(map(len, sequences))
        assert dataset.starts.tolist() == np.cumsum([0, *map(len, sequences)])[:-1].tolist()
        assert dataset.document_indices.tolist() == list(range(len(sequences) + 1))


def test_a_file_of_megatron(tmp_path):
    dataset = IndexedDataset(GOLDEN / "plain_qwen" / "data_packed_input_ids_document")
    assert len(dataset) == 200 and dataset.dtype == np.int32
    assert dataset[0][:2].tolist() == dataset.tokens[:2].tolist()
    assert sum(map(len, dataset)) == len(dataset.tokens) == 206_896 // 4


def test_a_failed_writer_leaves_no_index(tmp_path):
    def write_and_fail() -> None:
        with IndexedWriter(tmp_path / "x") as writer:
            writer.append(np.array([1], np.int32), [1])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert not idx_path(tmp_path / "x").exists()


def test_both_files_are_forced_to_the_disk(tmp_path, monkeypatch):
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    prefix = write(tmp_path / "x", [1])
    assert flushed == [bin_path(prefix), idx_path(prefix)]


def test_lengths_that_do_not_add_up_are_a_bug_of_the_caller(tmp_path):
    with pytest.raises(AssertionError), IndexedWriter(tmp_path / "x") as writer:
        writer.append(np.array([1, 2], np.int32), [1])


@pytest.mark.parametrize("missing", [bin_path, idx_path])
def test_a_missing_file_is_named(tmp_path, missing):
    prefix = write(tmp_path / "x", [1])
    missing(prefix).unlink()
    with pytest.raises(DataError, match=missing(prefix).name) as error:
        IndexedDataset(prefix)
    assert error.value.code == "SP101"


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (bin_path, lambda raw: raw[:-4]),
        (bin_path, lambda raw: raw[:-1]),
        (bin_path, lambda raw: raw + b"\x00"),
        (bin_path, lambda raw: b""),
        (idx_path, lambda raw: raw[:-1]),
        (idx_path, lambda raw: raw[:20]),
        (idx_path, lambda raw: b""),
        (idx_path, lambda raw: b"X" + raw[1:]),
        (idx_path, lambda raw: raw[:9] + b"\x02" + raw[10:]),
        (idx_path, lambda raw: raw[:17] + b"\x09" + raw[18:]),
        (idx_path, lambda raw: raw[:18] + b"\xff" * 8 + raw[26:]),
    ],
    ids=[
        "bin one token short", "bin one byte short", "bin one byte more", "bin empty", "idx one byte short",
        "idx header alone", "idx empty", "magic", "version", "type code", "number of sequences",
    ],
)  # fmt: skip
def test_damage_is_noticed(tmp_path, path, damage):
    prefix = write(tmp_path / "x", [1, 2], [3])
    file = path(prefix)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FormatError, match=file.name) as error:
        IndexedDataset(prefix)
    assert error.value.code == "SP105"
