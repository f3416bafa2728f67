"""Next-fit: samples in their order, a new pack whenever the next one does not fit."""

from __future__ import annotations

import numpy as np

from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.packing.best_fit import NO_LIMIT


class Sequential:
    """Keeps the order of the data. Costs a binary search per pack, and 12 bytes per sample."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        kind = index_dtype(len(lengths))
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        limit = max_docs or NO_LIMIT
        offsets, first = [0], 0
        while first < len(lengths):
            reach = int(ends[first]) + seq_length
            last = min(int(ends.searchsorted(reach, side="right")) - 1, first + limit)
            if last == first:
                raise ValueError(f"a sample of {int(lengths[first])} tokens fits no pack of {seq_length}")
            offsets.append(last)
            first = last
        return PackPlan(seq_length, np.arange(len(lengths), dtype=kind), np.array(offsets, kind), lengths)
