"""Samples longer than a pack, cut into pieces that any strategy can place (``--on-overlong split``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, PackPlan, index_dtype


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces in the order of the samples, all ``[pieces]``: whose, from which token on, how many tokens."""

    sample: NDArray[np.signedinteger]
    start: NDArray[np.signedinteger]
    length: NDArray[np.signedinteger]


def split_long(lengths: Integers, seq_length: int) -> Pieces | None:
    """Every sample as pieces of ``seq_length`` tokens and a shorter last one; None if all samples fit as they are."""
    if not len(lengths) or int(lengths.max()) <= seq_length:
        return None
    number = -(-lengths.astype(np.int64) // seq_length)
    ends = np.cumsum(number)
    sample = np.repeat(np.arange(len(lengths), dtype=index_dtype(len(lengths))), number)
    start = (np.arange(int(ends[-1])) - np.repeat(ends - number, number)) * seq_length
    length = np.minimum(lengths[sample] - start, seq_length)
    return Pieces(sample, start.astype(index_dtype(int(lengths.max()))), length.astype(np.int32))


def with_whole_samples(plan: PackPlan, pieces: Pieces, lengths: Integers) -> PackPlan:
    """A plan that took each piece for a sample, as a plan of the samples of these ``lengths``."""
    piece = plan.sample
    return PackPlan(
        plan.seq_length,
        pieces.sample[piece],
        plan.offsets,
        lengths,
        cut_start=pieces.start[piece],
        cut_length=pieces.length[piece],
        align=plan.align,
    )
