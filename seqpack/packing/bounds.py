"""How few packs there can be at all."""

from __future__ import annotations

import numpy as np

from seqpack.packing.patterns import Ints


def lower_bound(counts: Ints, capacity: int) -> int:
    """The larger of all tokens over the capacity, and Martello and Toth's L2; O(capacity) from the histogram.

    L2 tries every limit ``k``: samples longer than ``capacity - k`` are alone among those of at least ``k``; those
    above half a pack need a pack each, and what they leave must take the others of at least ``k``.
    """
    lengths = np.arange(capacity + 1)
    samples = np.cumsum(counts[::-1])[::-1]  # of at least each length
    tokens = np.cumsum((counts * lengths)[::-1])[::-1]
    if not len(samples) or not tokens[0]:
        return 0
    bound = -(-int(tokens[0]) // capacity)
    limit = np.arange(capacity // 2 + 1)
    samples, tokens = np.append(samples, 0), np.append(tokens, 0)
    large, half = capacity - limit + 1, capacity // 2 + 1
    middle = np.maximum(samples[half] - samples[large], 0)
    room = middle * capacity - (tokens[half] - tokens[large])
    small = tokens[limit] - tokens[half]
    needed = samples[large] + middle + np.maximum(-(-(small - room) // capacity), 0)
    return max(bound, int(needed.max()))
