"""Next-fit: samples in their order, a new pack whenever the next one does not fit."""

from __future__ import annotations

import numpy as np

from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.packing.best_fit import NO_LIMIT

ROWS_AT_A_TIME = 1 << 18


class Sequential:
    """Keeps the order of the data. Linear; 12 bytes per sample, and 40 per pack."""

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
            # for every sample that might begin a pack, the one that begins the next: cheaper than a search per pack
            block = np.arange(first, min(first + ROWS_AT_A_TIME, len(lengths)))
            reach = np.searchsorted(ends, ends[block] + seq_length, side="right") - 1
            following = np.minimum(reach, block + limit).tolist()
            base, stop = first, first + len(block)
            while first < stop:
                last = following[first - base]
                if last == first:
                    raise ValueError(f"a sample of {int(lengths[first])} tokens fits no pack of {seq_length}")
                offsets.append(last)
                first = last
        return PackPlan(seq_length, np.arange(len(lengths), dtype=kind), np.array(offsets, kind), lengths)
