"""First-fit in random order: each sample into the first pack with room, samples in the order of a shuffle.

A batch at a time. The first pack with room for a sample is found by a search over the running maximum of the rooms;
samples of one batch that meet in a pack enter it in their order as far as they fit, and the others look again.
Linear in samples: a fixed number of batches, a few numpy calls each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.packing.best_fit import NO_LIMIT
from seqpack.packing.lengths import stable_order

FEWEST_BATCHES, MOST_BATCHES = 25, 100
BATCH = 2048
"""Samples in a batch, if that makes so many batches: more would take longer, fewer would not be first-fit any more."""
SMALLEST_BATCH = 32
MOST_OPEN = 1 << 14
"""Packs looked at; the oldest, which have the least room, are closed when there are more."""
Ints = NDArray[np.int64]


class Shuffle:
    """Packs like a random draw, as far as what fits allows. Costs about 24 bytes per sample."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        kind = index_dtype(len(lengths))
        order = np.arange(len(lengths), dtype=kind)
        rng.shuffle(order)
        pack_of = np.empty(len(lengths), kind)
        batch = max(SMALLEST_BATCH, min(BATCH, len(lengths) // FEWEST_BATCHES), len(lengths) // MOST_BATCHES)
        shortest = int(lengths.min()) if len(lengths) else 1
        shelf = _Shelf(seq_length, max_docs or NO_LIMIT, shortest)
        for first in range(0, len(order), batch):
            samples = order[first : first + batch]
            pack_of[first : first + batch] = shelf.place(lengths[samples].astype(np.int64))
        number = np.arange(shelf.num_packs, dtype=kind)
        rng.shuffle(number)  # in the order they were opened, the last packs would be those of long samples
        pack_of = number[pack_of]
        sizes = np.bincount(pack_of, minlength=shelf.num_packs)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(kind)
        sample = order[stable_order(pack_of, max(len(sizes), 1))]
        return PackPlan(seq_length, sample, offsets, lengths)


class _Shelf:
    """Open packs in the order they were opened: their numbers, rooms, and samples they may still take."""

    def __init__(self, capacity: int, max_docs: int, shortest: int) -> None:
        self.capacity, self.max_docs, self.shortest = capacity, max_docs, shortest
        self.num_packs = 0
        self.number, self.room, self.docs = (np.zeros(0, np.int64) for _ in range(3))

    def place(self, length: Ints) -> Ints:
        """The pack of each of these samples, opening as many as needed."""
        pack = np.empty(len(length), np.int64)
        waiting = np.arange(len(length))
        while len(waiting):
            highest = np.maximum.accumulate(self.room) if len(self.room) else self.room
            first = np.searchsorted(highest, length[waiting])
            found = first < len(self.room)
            if not found.any():
                tokens = int(length[waiting].sum())
                self._open(max(1, tokens // self.capacity, len(waiting) // self.max_docs))
                continue
            entered = self._enter(length, waiting[found], first[found], pack)
            left = ~found
            left[found] = ~entered
            waiting = waiting[left]
        return pack

    def _enter(self, length: Ints, asking: Ints, first: Ints, pack: Ints) -> NDArray[np.bool_]:
        """Let those in who fit: the ``k``-th of those who ask for a pack looks ``k`` packs further; who got in?"""
        target = np.minimum(first + _number_in_group(first), len(self.room) - 1)
        fits = np.flatnonzero(length[asking] <= self.room[target])
        order = fits[np.argsort(target[fits], kind="stable")]
        place, tokens = target[order], np.cumsum(length[asking[order]])
        begins, sizes = _runs(place)
        before = np.repeat(tokens[begins] - length[asking[order[begins]]], sizes)
        number = np.arange(len(place)) - np.repeat(begins, sizes)
        enters = (tokens - before <= self.room[place]) & (number < self.docs[place])
        inside, where = order[enters], place[enters]
        pack[asking[inside]] = self.number[where]
        np.subtract.at(self.room, where, length[asking[inside]])
        np.subtract.at(self.docs, where, 1)
        self._close()
        entered = np.zeros(len(asking), bool)
        entered[inside] = True
        return entered

    def _close(self) -> None:
        keep = (self.room >= self.shortest) & (self.docs > 0)
        if not keep.all() or len(keep) > MOST_OPEN:
            kept = np.flatnonzero(keep)[-MOST_OPEN:]
            self.number, self.room, self.docs = self.number[kept], self.room[kept], self.docs[kept]

    def _open(self, packs: int) -> None:
        self.number = np.concatenate([self.number, np.arange(self.num_packs, self.num_packs + packs)])
        self.room = np.concatenate([self.room, np.full(packs, self.capacity, np.int64)])
        self.docs = np.concatenate([self.docs, np.full(packs, self.max_docs, np.int64)])
        self.num_packs += packs


def _number_in_group(values: Ints) -> Ints:
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    begins, sizes = _runs(values[order])
    number = np.empty(len(values), np.int64)
    number[order] = np.arange(len(values)) - np.repeat(begins, sizes)
    return number


def _runs(values: Ints) -> tuple[Ints, Ints]:
    """Where runs of equal values begin, and how long they are; np.diff takes three times as long on few values."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(values)]]) if len(values) else np.zeros(1, np.int64)
    return edges[:-1], edges[1:] - edges[:-1]
