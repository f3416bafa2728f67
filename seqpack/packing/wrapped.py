"""Concatenate and cut: samples in their order, every pack full, whoever sits on a border is cut. For pretraining."""

from __future__ import annotations

import numpy as np

from seqpack.core.plan import Integers, PackPlan, index_dtype


class Wrapped:
    """No padding but in the last pack, and about one sample cut per pack. Linear; 40 bytes per piece."""

    takes_any_integer = True
    cuts_samples = True

    def plan(self, lengths: Integers, *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        ends = np.cumsum(lengths, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        borders = np.arange(0, total, seq_length, dtype=np.int64)
        begin = np.union1d(ends - lengths, borders)  # where in the whole text each piece begins
        sample = np.searchsorted(ends, begin, side="right")
        kind = index_dtype(max(len(begin), len(lengths)))
        return PackPlan(
            seq_length,
            sample.astype(kind),
            np.append(np.searchsorted(begin, borders), len(begin)).astype(kind),
            lengths,
            cut_start=(begin - (ends - lengths)[sample]).astype(index_dtype(total)),
            cut_length=np.diff(begin, append=total).astype(np.int32),
        )
