"""Sets of other programs, against what MindSpeed-LLM wrote and against our own reader of the same rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from seqpack.core.errors import FormatError
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.io.foreign import mask_boundaries, open_foreign
from seqpack.io.indexed import IndexedDataset, IndexedWriter
from seqpack.io.pai import write_pai

GOLDEN = Path(__file__).parents[1] / "golden" / "mindspeed"


def test_neat_packs_of_mindspeed(tmp_path: Path) -> None:
    prefix = Path(shutil.copytree(GOLDEN / "neat_pack_qwen_seq512", tmp_path / "set")) / "data"
    rows = open_foreign(prefix)
    assert rows is not None
    mask = IndexedDataset(prefix.with_name("data_packed_attention_mask_document"))
    assert rows.manifest.mask is MaskMode.BLOCK_CAUSAL
    assert rows.manifest.seq_length == 512
    assert (len(rows), int(rows.num_tokens.sum())) == (len(mask), int(np.count_nonzero(mask.tokens)))
    assert len(rows.pieces) == sum(int(mask[row].max()) for row in range(len(mask)))
    row = rows[5]
    numbered = np.repeat(np.arange(1, row.num_samples + 1), np.diff(row.cu_seqlens)[: row.num_samples])
    assert np.array_equal(numbered, mask[5][: len(row) - row.num_padding])
    assert rows.manifest.tokenizer.vocab_size <= 3000


def test_plain_rows_of_mindspeed(tmp_path: Path) -> None:
    rows = open_foreign(Path(shutil.copytree(GOLDEN / "plain_qwen", tmp_path / "set")) / "data")
    assert rows is not None
    assert (rows.manifest.packed, rows.manifest.mask) == (False, None)
    assert rows[0].cu_seqlens.tolist() == [0, rows.row_lengths[0]]


def test_packs_of_pai(tmp_path: Path) -> None:
    ids = np.array([5, 6, 7, 8, 9, 0], np.int32)
    labels = np.array([IGNORE_INDEX, 6, IGNORE_INDEX, 8, 9, IGNORE_INDEX], np.int32)
    row = PackedSequence(ids, labels, np.array([0, 2, 5, 6], np.int32), 1)
    write_pai([row, row], tmp_path / "pai")
    rows = open_foreign(tmp_path / "pai")
    assert rows is not None
    assert (len(rows), rows.manifest.mask, rows.manifest.seq_length) == (2, MaskMode.BLOCK_CAUSAL, 6)
    assert rows[1].cu_seqlens.tolist() == [0, 2, 5, 6]
    assert rows.num_targets.tolist() == [3, 3]
    assert rows.num_samples.tolist() == [2, 2]


def test_text_is_not_taken_for_packs_of_pai(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "text_text_document") as writer:
        writer.append(np.arange(4), [4])
    assert open_foreign(tmp_path / "text") is None
    assert open_foreign(tmp_path / "nothing") is None


def test_boundaries_of_a_mask() -> None:
    bounds, padding = mask_boundaries(np.array([1, 1, 2, 0]))
    assert (bounds.tolist(), padding) == ([0, 2, 3, 4], 1)
    bounds, padding = mask_boundaries(np.array([1, 1, 1]))
    assert (bounds.tolist(), padding) == ([0, 3], 0)


@pytest.mark.parametrize("mask", [[1, 0, 2], [1, 2, 1], [2, 1], [-1, 1]])
def test_a_mask_that_is_none(mask: list[int]) -> None:
    with pytest.raises(FormatError, match="not one of --neat-pack") as raised:
        mask_boundaries(np.array(mask))
    assert raised.value.code == "SP105"


def test_files_of_two_runs(tmp_path: Path) -> None:
    for name, length in (("input_ids", 3), ("labels", 3), ("attention_mask", 2)):
        with IndexedWriter(tmp_path / f"a_packed_{name}_document") as writer:
            writer.append(np.ones(length), [length])
    with pytest.raises(FormatError, match="rows of other lengths"):
        open_foreign(tmp_path / "a")


def test_boundaries_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = Path(shutil.copytree(GOLDEN / "neat_pack_qwen_seq512", tmp_path / "set")) / "data"
    first = open_foreign(prefix)
    assert first is not None and first.boundaries_from is None
    again = open_foreign(prefix)
    assert again is not None
    assert again.boundaries_from == prefix.with_name("data_boundaries.npz")
    assert again.manifest == first.manifest
    assert all(np.array_equal(again[row].cu_seqlens, first[row].cu_seqlens) for row in range(len(first)))
    assert np.array_equal(again.num_targets, first.num_targets)
    mask = prefix.with_name("data_packed_attention_mask_document.bin")
    os.utime(mask, ns=(1, 1))  # another file now
    changed = open_foreign(prefix)
    assert changed is not None and changed.boundaries_from is None
    prefix.with_name("data_boundaries.npz").write_bytes(b"PK half")
    damaged = open_foreign(prefix)
    assert damaged is not None and damaged.boundaries_from is None
    assert not list(prefix.parent.glob(".*"))
