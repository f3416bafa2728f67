"""First-fit decreasing: longest sample first, each into the first pack with room.

Planned pack by pack on the histogram: a pack takes the longest sample that is left and fits, again and again, which
gives the packs of the textbook; the same contents are repeated as long as they last. These are the packs of
MindSpeed-LLM's and LLaMA-Factory's knapsack over a whole set.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.lengths import histogram
from seqpack.packing.patterns import Ints, Patterns


class FirstFit:
    """As few packs as best-fit on most data; in random order too."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        counts = histogram(lengths, seq_length)
        patterns = first_fit(counts, seq_length, max_docs=max_docs)
        return patterns.fill_with(lengths, counts, seq_length=seq_length, rng=rng)


def first_fit(counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """First-fit decreasing of so many samples of each length into packs of ``capacity``."""
    left = counts.tolist()
    present = np.flatnonzero(counts).tolist()
    found = []
    while present:
        inside: dict[int, int] = {}
        room, docs, packs, reach = capacity, max_docs or capacity, left[present[-1]], len(present)
        while docs and (reach := bisect_right(present, room, 0, reach)):
            reach -= 1
            length = present[reach]
            inside[length] = times = min(room // length, left[length], docs)
            packs = min(packs, left[length] // times)
            room -= times * length
            docs -= times
        for length, times in inside.items():
            left[length] -= packs * times
            if not left[length]:
                del present[bisect_right(present, length) - 1]
        found.append((packs, inside))
    return Patterns.of(found)
