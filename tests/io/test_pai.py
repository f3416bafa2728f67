"""Pai-Megatron-Patch's layout, written and read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import FormatError
from seqpack.core.segments import cu_seqlens_from_lengths
from seqpack.core.types import IGNORE_INDEX, PackedSequence
from seqpack.io.indexed import IndexedDataset
from seqpack.io.pai import from_pai, pai_prefix, read_pai, to_pai, write_pai


def row(lengths: list[int], num_padding: int, seed: int = 0) -> PackedSequence:
    rng = np.random.default_rng(seed)
    total = sum(lengths) + num_padding
    input_ids = rng.integers(0, 9, total).astype(np.int32)
    cu_seqlens = cu_seqlens_from_lengths([*lengths, *([num_padding] if num_padding else [])])
    labels = np.where(rng.random(total) < 0.5, input_ids, IGNORE_INDEX).astype(np.int32)
    labels[cu_seqlens[:-1]] = IGNORE_INDEX  # nothing predicts the first token of a sample
    labels[total - num_padding :] = IGNORE_INDEX
    return PackedSequence(input_ids, labels, cu_seqlens, num_padding)


def test_a_row_by_hand():
    packed = PackedSequence(
        np.array([5, 6, 0, 7, 8, 9, 9], np.int32),
        np.array([-100, 6, 0, -100, 8, -100, -100], np.int32),
        np.array([0, 3, 5, 7], np.int32),
        num_padding=2,
    )
    expected = [5, 6, -1, 7, -9, 9, 9, 6, 0, -100, 8, -100, -100, -100]
    assert to_pai(packed).tolist() == expected


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), padding=st.integers(0, 3), seed=st.integers(0, 99))
def test_what_is_written_is_read(lengths, padding, seed):
    before = row(lengths, padding, seed)
    after = from_pai(to_pai(before))
    assert after.input_ids.tolist() == before.input_ids.tolist()
    assert after.labels.tolist() == before.labels.tolist()
    assert after.cu_seqlens.tolist() == before.cu_seqlens.tolist()
    assert after.num_padding == before.num_padding


def test_files(tmp_path):
    rows = [row([3, 2], 1), row([6], 0)]
    write_pai(rows, tmp_path / "x")
    assert pai_prefix(tmp_path / "x").name == "x_text_document"
    assert IndexedDataset(tmp_path / "x_text_document").lengths.tolist() == [12, 12]
    assert [packed.cu_seqlens.tolist() for packed in read_pai(tmp_path / "x")] == [[0, 3, 5, 6], [0, 6]]


@pytest.mark.parametrize("stored", [[1, 2, 3], [1, 2, -100, -100], []])
def test_other_sequences_are_refused(stored):
    with pytest.raises(FormatError) as caught:
        from_pai(np.array(stored, np.int32))
    assert caught.value.code == "SP105"
