"""What every planner of whole sets begins with: how many samples have each length, and the samples by length.

Both go through the lengths piece by piece, so that a memory-mapped file of any integers is never copied as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, index_dtype

AT_A_TIME = 1 << 18
"""Rows sorted at a time: the temporaries of a numpy sort are 24 bytes per row, and these stay in the cache."""


def histogram(lengths: Integers, capacity: int) -> NDArray[np.int64]:
    """How many samples have each length, int64 ``[capacity + 1]``; ValueError for a length that fits no pack."""
    counts = np.zeros(capacity + 1, np.int64)
    for _, part in _parts(lengths):
        if part.min() < 0 or part.max() > capacity:
            raise ValueError(f"lengths must be from 0 to {capacity}, there is one of {_outlier(part, capacity)}")
        counts += np.bincount(part, minlength=capacity + 1)
    return counts


def by_length(
    lengths: Integers, counts: NDArray[np.int64], rng: np.random.Generator | None = None
) -> NDArray[np.signedinteger]:
    """All samples from short to long, int32 if that suffices; equal ones in their order, or in that of ``rng``.

    A counting sort over sorted parts: linear, 4 bytes per sample beside its result's own 0.
    """
    kind = index_dtype(len(lengths))
    order = np.empty(len(lengths), kind)
    place = np.cumsum(counts) - counts
    for first, part in _parts(lengths):
        inside = stable_order(part, len(counts))
        here = np.bincount(part, minlength=len(counts))
        shift = place - (np.cumsum(here) - here)
        present = np.flatnonzero(here)
        places = np.repeat(shift[present], here[present]) + np.arange(len(part))
        order[places] = inside + first
        place += here
    if rng is not None:
        _mix(order, counts, rng)
    return order


def stable_order(values: Integers, limit: int) -> NDArray[np.int64]:
    """A stable argsort of values from 0 to ``limit - 1``: numpy sorts 16 bits by radix, wider ones in two rounds."""
    low = (values & 0xFFFF).astype(np.uint16)
    order: NDArray[np.int64] = np.argsort(low, kind="stable")
    if limit <= 1 << 16:
        return order
    if limit > 1 << 32:
        return np.argsort(values, kind="stable")
    high = (values >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]


def _mix(order: NDArray[np.signedinteger], counts: NDArray[np.int64], rng: np.random.Generator) -> None:
    ends = np.cumsum(counts)
    for length in np.flatnonzero(counts > 1).tolist():
        rng.shuffle(order[ends[length] - counts[length] : ends[length]])


def _parts(lengths: Integers) -> Iterator[tuple[int, Integers]]:
    for first in range(0, len(lengths), AT_A_TIME):
        yield first, lengths[first : first + AT_A_TIME]


def _outlier(part: Integers, capacity: int) -> int:
    return int(part.min()) if part.min() < 0 else int(part.max())
