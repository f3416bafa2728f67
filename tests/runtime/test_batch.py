from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.runtime.batch import collate, pad_row


def row(lengths: list[int], num_padding: int = 0) -> PackedSequence:
    """Ids 1, 2, ... with every token labelled by itself; padding is 0 and unlabelled."""
    tokens = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    ids = np.concatenate([tokens, np.zeros(num_padding, np.int32)])
    labels = np.where(ids > 0, ids, IGNORE_INDEX).astype(np.int32)
    ends = np.cumsum([*lengths, *([num_padding] if num_padding else [])])
    return PackedSequence(ids, labels, np.concatenate([[0], ends]).astype(np.int32), num_padding)


def test_two_packs_lie_side_by_side() -> None:
    batch = collate([row([2, 1], 2), row([3])], MaskMode.BLOCK_CAUSAL)
    assert batch.input_ids.tolist() == [[1, 2, 3, 0, 0, 1, 2, 3]]
    assert batch.labels.tolist() == [[2, -100, -100, -100, -100, 2, 3, -100]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 0, 1, 0, 1, 2]]
    assert batch.segments.cu_seqlens.tolist() == [0, 2, 3, 5, 8]
    assert (batch.num_tokens, batch.num_targets, batch.num_padding) == (6, 3, 2)
    assert batch.input_ids.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64


def test_causal_keeps_packs_apart_and_runs_positions_over_each() -> None:
    batch = collate([row([2, 1], 2), row([3])], MaskMode.CAUSAL)
    assert batch.segments.attended.cu_seqlens.tolist() == [0, 3, 5, 8]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    # The last token of a sample predicts nothing in this mode either.
    assert batch.labels.tolist() == [[2, -100, -100, -100, -100, 2, 3, -100]]


@pytest.mark.parametrize("num_padding", [0, 2])
def test_pad_row_extends_the_padding(num_padding: int) -> None:
    padded = pad_row(row([2, 1], num_padding), 7, pad_token_id=9)
    assert padded.cu_seqlens.tolist() == [0, 2, 3, 7]
    assert padded.num_padding == 4
    assert padded.input_ids[-1] == 9
    assert (padded.labels[3:] == IGNORE_INDEX).all()


def test_pad_row_that_fits_is_the_same() -> None:
    full = row([2, 1])
    assert pad_row(full, 3, pad_token_id=0) is full


@given(
    packs=st.lists(st.tuples(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 3)), min_size=1),
    mask=st.sampled_from(MaskMode),
    extra=st.integers(0, 3),
)
def test_counts_agree_with_the_rows(packs: list[tuple[list[int], int]], mask: MaskMode, extra: int) -> None:
    rows = [row(lengths, num_padding) for lengths, num_padding in packs]
    pad_to = max(map(len, rows)) + extra if extra else None
    batch = collate(rows, mask, pad_to=pad_to)
    assert batch.num_tokens == sum(sum(lengths) for lengths, _ in packs)
    assert batch.num_targets == sum(sum(lengths) - len(lengths) for lengths, _ in packs)
    assert batch.num_tokens + batch.num_padding == batch.input_ids.numel() == batch.segments.cu_seqlens[-1]


def test_to_keeps_the_rest() -> None:
    batch = collate([row([2, 1])], MaskMode.BLOCK_CAUSAL)
    moved = batch.to(torch.device("meta"))
    assert moved.labels.device.type == "meta"
    assert moved.segments is batch.segments
