"""Next-fit: samples in their order, a new pack whenever the next one does not fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan


class Greedy:
    """Keeps the order of the data. Cost: one binary search per pack."""

    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        assert lengths.max(initial=0) <= seq_length, "a sample that fits no pack"
        ends = np.concatenate([[0], np.cumsum(lengths)])
        offsets = [0]
        while offsets[-1] < len(lengths):
            reach = ends[offsets[-1]] + seq_length
            offsets.append(int(np.searchsorted(ends, reach, side="right")) - 1)
        sample = np.arange(len(lengths), dtype=np.int64)
        return PackPlan(seq_length, sample, np.zeros_like(sample), lengths, np.array(offsets, np.int64))
