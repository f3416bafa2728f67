"""Best-fit over a buffer that is carried on: constant memory, and order is nearly kept.

The buffer is planned, its fullest packs leave it, and what is left waits for the next samples. With 4,096 samples
this is about as good as planning 65,536 at a time without carrying on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.packing.best_fit import best_fit
from seqpack.packing.lengths import histogram

BUFFER = 4096
LEAST_EMITTED = 0.5
"""At least this share of a buffer's packs leave it, the fullest ones: more is faster, less wastes less."""
SLACK = 1 / 4096
"""Packs with no more room than this share leave it too."""


class Stream:
    """One or two microseconds per sample; the memory of planning does not depend on their number."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        parts = (lengths[first : first + BUFFER] for first in range(0, len(lengths), BUFFER))
        packed = list(pack_stream(parts, seq_length, rng=rng, max_docs=max_docs))
        kind = index_dtype(len(lengths))
        sample = np.concatenate([np.zeros(0, kind), *(sample.astype(kind) for sample, _ in packed)])
        sizes = np.concatenate([np.zeros(1, kind), *(sizes.astype(kind) for _, sizes in packed)])
        return PackPlan(seq_length, sample, np.cumsum(sizes, dtype=kind), lengths)


def pack_stream(
    parts: Iterable[Integers], capacity: int, *, rng: np.random.Generator, max_docs: int | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Packs as soon as they are made: their samples, numbered in order of arrival, and how many are in each pack."""
    number, length, arrived = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    for part in parts:
        for first in range(0, len(part), BUFFER):
            new = part[first : first + BUFFER].astype(np.int64)
            number = np.concatenate([number, np.arange(arrived, arrived + len(new))])
            length = np.concatenate([length, new])
            arrived += len(new)
            if len(length) >= BUFFER:
                sample, sizes, stays = _emit(length, capacity, LEAST_EMITTED, rng, max_docs)
                yield number[sample], sizes
                number, length = number[stays], length[stays]
    if len(length):
        sample, sizes, _ = _emit(length, capacity, 1.0, rng, max_docs)
        yield number[sample], sizes


def _emit(
    length: NDArray[np.int64], capacity: int, share: float, rng: np.random.Generator, max_docs: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Samples and sizes of the fullest packs, in random order, and the samples that stay, in theirs."""
    counts = histogram(length, capacity)
    plan = best_fit(counts, capacity, max_docs=max_docs).fill_with(length, counts, seq_length=capacity, rng=rng)
    fill = plan.fill()
    leave = max(1, int(share * len(plan)))
    out = fill >= capacity - int(capacity * SLACK)
    out[np.argsort(-fill, kind="stable")[:leave]] = True
    sizes = np.diff(plan.offsets)
    going = np.repeat(out, sizes)
    return plan.sample[going].astype(np.int64), sizes[out].astype(np.int64), np.sort(plan.sample[~going])
