"""Boundaries: what follows from them agrees with the slow definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.segments import Segments, cu_seqlens_from_lengths, position_ids, shift_labels
from seqpack.core.types import IGNORE_INDEX, MaskMode

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def test_by_hand():
    cu_seqlens = cu_seqlens_from_lengths([3, 2])
    assert cu_seqlens.tolist() == [0, 3, 5] and cu_seqlens.dtype == np.int32
    assert position_ids(cu_seqlens).tolist() == [0, 1, 2, 0, 1]
    labels = np.array([7, 8, 9, 5, 6], np.int32)
    assert shift_labels(labels, cu_seqlens).tolist() == [8, 9, IGNORE_INDEX, 6, IGNORE_INDEX]


def test_no_samples_have_no_boundaries_but_zero():
    assert cu_seqlens_from_lengths([]).tolist() == [0]
    assert position_ids(cu_seqlens_from_lengths([])).tolist() == []


@given(LENGTHS)
def test_positions_restart_in_every_segment(lengths):
    positions = position_ids(cu_seqlens_from_lengths(lengths))
    assert positions.dtype == np.int32
    assert positions.tolist() == [position for length in lengths for position in range(length)]


@given(LENGTHS)
def test_shifting_is_done_inside_segments(lengths):
    labels = np.arange(sum(lengths), dtype=np.int32)
    before = labels.copy()
    shifted = shift_labels(labels, cu_seqlens_from_lengths(lengths))
    expected = []
    for segment in np.split(labels, np.cumsum(lengths)[:-1]):
        expected += [*segment[1:].tolist(), IGNORE_INDEX]
    assert shifted.tolist() == expected
    assert np.array_equal(labels, before), "the argument was changed"


@given(LENGTHS, st.sampled_from(MaskMode))
def test_segments_describe_the_mask(lengths, mask):
    segments = Segments(cu_seqlens_from_lengths(lengths), mask)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    seen = np.tril(np.ones((len(owner), len(owner)), bool))
    if mask is MaskMode.BLOCK_CAUSAL:
        seen &= owner[:, None] == owner[None, :]
    assert segments.num_attended_pairs == seen.sum()
    assert segments.lengths.tolist() == lengths
    assert segments.max_seqlen == max(lengths)
    assert segments.actual_seq_len == np.cumsum(lengths).tolist()


def test_under_causal_attention_works_on_the_whole_row():
    row = Segments(cu_seqlens_from_lengths([3, 2]), MaskMode.CAUSAL)
    assert row.attended.cu_seqlens.tolist() == [0, 5]
    apart = Segments(cu_seqlens_from_lengths([3, 2]))
    assert apart.attended is apart


@pytest.mark.parametrize("cu_seqlens", [[1, 3], [0, 3, 3], [0, 3, 2]])
def test_boundaries_that_do_not_rise_from_zero_are_refused(cu_seqlens):
    with pytest.raises(AssertionError):
        Segments(np.array(cu_seqlens, np.int32))
