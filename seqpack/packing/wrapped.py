"""Concatenate and cut: samples in their order, every pack full, whoever sits on a border is cut. For pretraining."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, PackPlan, index_dtype

ROWS_AT_A_TIME = 1 << 18


class Wrapped:
    """No padding but in the last pack, and about one sample cut per pack. Linear; 12 bytes per piece."""

    takes_any_integer = True
    cuts_samples = True

    def plan(self, lengths: Integers, *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        longest = int(lengths.max()) if len(lengths) else 0
        pieces, tokens = 0, 0
        for _, begin, end in _spans(lengths):
            pieces += int(_borders(begin, end, seq_length).sum()) + len(begin)
            tokens = int(end[-1])
        kind = index_dtype(max(pieces, len(lengths)))
        sample, start = np.empty(pieces, kind), np.empty(pieces, index_dtype(longest + 1))
        length = np.empty(pieces, np.int32)
        offsets = np.zeros(-(-tokens // seq_length) + 1, kind)
        at = 0
        for first, begin, end in _spans(lengths):
            each = _borders(begin, end, seq_length) + 1
            last = np.cumsum(each)
            of = np.repeat(np.arange(len(begin)), each)
            number = np.arange(int(last[-1])) - np.repeat(last - each, each)
            origin = np.maximum((begin[of] // seq_length + number) * seq_length, begin[of])
            stop = np.minimum((origin // seq_length + 1) * seq_length, end[of])
            here = slice(at, at + len(of))
            sample[here], start[here], length[here] = of + first, origin - begin[of], stop - origin
            opens = np.flatnonzero(origin % seq_length == 0)
            offsets[origin[opens] // seq_length] = opens + at
            at += len(of)
        offsets[-1] = pieces
        return PackPlan(seq_length, sample, offsets, lengths, cut_start=start, cut_length=length)


def _spans(lengths: Integers) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Some samples at a time: the first one's number, and where each begins and ends in the text of all."""
    before = 0
    for first in range(0, len(lengths), ROWS_AT_A_TIME):
        part = lengths[first : first + ROWS_AT_A_TIME]
        end = np.cumsum(part, dtype=np.int64) + before
        yield first, end - part, end
        before = int(end[-1])


def _borders(begin: NDArray[np.int64], end: NDArray[np.int64], seq_length: int) -> NDArray[np.int64]:
    """How many borders of packs lie inside each sample."""
    return (end - 1) // seq_length - begin // seq_length
