"""Boundaries of the samples inside a row, held on the host, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import IGNORE_INDEX, MaskMode


def cu_seqlens_from_lengths(lengths: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
    """Cumulative ends with a leading 0: [3, 2] -> [0, 3, 5]."""
    cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    return cu_seqlens


def position_ids(cu_seqlens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Positions that restart at 0 in every segment: [0, 3, 5] -> [0, 1, 2, 0, 1]."""
    starts = np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    return np.arange(cu_seqlens[-1], dtype=np.int32) - starts


def shift_labels(labels: NDArray[np.int32], cu_seqlens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels aligned with their tokens -> labels of the next token; the last token of a segment predicts nothing."""
    shifted = np.full_like(labels, IGNORE_INDEX)
    shifted[:-1] = labels[1:]
    shifted[cu_seqlens[1:] - 1] = IGNORE_INDEX
    return shifted


@dataclass(frozen=True, slots=True)
class Segments:
    """Which tokens of a row belong together: ``cu_seqlens`` int32 from 0 to the number of tokens, on the host."""

    cu_seqlens: NDArray[np.int32]
    mask: MaskMode = MaskMode.BLOCK_CAUSAL

    def __post_init__(self) -> None:
        assert self.cu_seqlens[0] == 0 and bool((np.diff(self.cu_seqlens) > 0).all())

    @property
    def lengths(self) -> NDArray[np.int32]:
        return np.diff(self.cu_seqlens)

    @property
    def max_seqlen(self) -> int:
        return int(self.lengths.max())

    @property
    def actual_seq_len(self) -> list[int]:
        """Cumulative ends without the leading 0: the form Ascend's TND attention takes."""
        ends: list[int] = self.cu_seqlens[1:].tolist()
        return ends

    @property
    def attended(self) -> Segments:
        """The segments attention works on: themselves under block-causal, the whole row under causal."""
        if self.mask is MaskMode.BLOCK_CAUSAL:
            return self
        return Segments(self.cu_seqlens[[0, -1]], MaskMode.BLOCK_CAUSAL)

    @property
    def num_attended_pairs(self) -> int:
        """(query, key) pairs inside the mask: the sum of n(n+1)/2 over attended segments."""
        lengths = self.attended.lengths.astype(np.int64)
        return int((lengths * (lengths + 1) // 2).sum())
