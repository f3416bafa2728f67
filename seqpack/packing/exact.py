"""Exact completion: a pack begins with the longest sample that is left, and is closed without a gap if that can be.

The gap is closed by one sample, or by two: which pairs of lengths sum to the room is one AND of the lengths, as the
bits of a big integer, with their mirror image. Of several pairs the most equal one is taken, which keeps the shortest
samples for later. Only where neither exists does the longest sample that fits go in. On a few shapes of data,
best-fit is better; so both are planned and the better one is kept. Planning depends on distinct lengths, not on rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np

from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.best_fit import NO_LIMIT, best_fit
from seqpack.packing.bounds import lower_bound
from seqpack.packing.lengths import histogram
from seqpack.packing.patterns import Ints, Patterns


class Exact:
    """The fewest packs without a solver; in random order."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        counts = histogram(lengths, seq_length)
        patterns = fewest(counts, seq_length, max_docs=max_docs)
        return patterns.fill_with(lengths, counts, seq_length=seq_length, rng=rng)


def fewest(counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """The better one of best-fit and exact completion."""
    return fewer(best_fit(counts, capacity, max_docs=max_docs), counts, capacity, max_docs=max_docs)


def fewer(first: Patterns, counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """These packs, or those of exact completion if they are fewer."""
    if first.num_packs <= lower_bound(counts, capacity):
        return first
    second = exact(counts, capacity, max_docs=max_docs)
    return min(first, second, key=lambda patterns: patterns.num_packs)


def exact(counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """Exact completion of so many samples of each length into packs of ``capacity``."""
    stock = Stock(counts, capacity)
    found = []
    while stock.present:
        inside = stock.complete(capacity, max_docs or NO_LIMIT, stock.present[-1])
        packs = stock.most(inside)
        stock.take(inside, packs)
        found.append((packs, inside))
    return Patterns.of(found)


def exact_into(
    rooms: Mapping[int, int], counts: Ints, capacity: int, *, max_docs: int | None = None
) -> tuple[Patterns, Ints]:
    """Close packs that are open, largest room first: how many there are of each room; the rest gets new packs.

    Returns what is added to the packs, and the room that each pattern's packs began with.
    """
    stock = Stock(counts, capacity)
    found: list[tuple[int, Mapping[int, int]]] = []
    began: list[int] = []
    for room in sorted(rooms, reverse=True):
        left = rooms[room]
        while left:
            inside = stock.complete(room, max_docs or NO_LIMIT) if stock.present else {}
            packs = min(left, stock.most(inside)) if inside else left
            stock.take(inside, packs)
            found.append((packs, inside))
            began.append(room)
            left -= packs
    group = np.repeat(np.arange(len(found)), [len(inside) for _, inside in found])
    closing = Patterns.of_items(
        np.array([packs for packs, _ in found], np.int64),
        group,
        np.array([length for _, inside in found for length in inside], np.int64),
        np.array([times for _, inside in found for times in inside.values()], np.int64),
    )
    rest = fewest(np.array(stock.left, np.int64), capacity, max_docs=max_docs)
    return closing.together(rest), np.array([*began, *[capacity] * len(rest.packs)], np.int64)


class Stock:
    """Samples that are not placed yet, by length."""

    def __init__(self, counts: Ints, capacity: int) -> None:
        self.left: list[int] = counts.tolist()
        self.present: list[int] = np.flatnonzero(counts).tolist()
        self.capacity = capacity
        flags = np.packbits(counts > 0, bitorder="little")
        mirror = np.packbits(counts[::-1] > 0, bitorder="little")
        self.bits = int.from_bytes(flags.tobytes(), "little")
        self.mirror = int.from_bytes(mirror.tobytes(), "little")

    def complete(self, room: int, docs: int, first: int = 0) -> dict[int, int]:
        """Samples that fill a room, exactly if that is found; ``first`` is one that must be among them."""
        inside: dict[int, int] = {}
        bits, mirror = self.bits, self.mirror
        add: tuple[int, ...] = (first,) if first else self._next(room, docs, inside, bits, mirror)
        while add:
            for length in add:
                room -= length
                docs -= 1
                inside[length] = times = inside.get(length, 0) + 1
                if times == self.left[length]:
                    bits ^= 1 << length
                    mirror ^= 1 << (self.capacity - length)
            add = self._next(room, docs, inside, bits, mirror) if room and docs else ()
        return inside

    def most(self, inside: Mapping[int, int]) -> int:
        """How many packs with these contents there are samples for."""
        return min(self.left[length] // times for length, times in inside.items())

    def take(self, inside: Mapping[int, int], packs: int) -> None:
        """Remove the samples of so many packs."""
        for length, times in inside.items():
            self.left[length] -= packs * times
            if not self.left[length]:
                del self.present[bisect_right(self.present, length) - 1]
                self.bits ^= 1 << length
                self.mirror ^= 1 << (self.capacity - length)

    def _next(self, room: int, docs: int, inside: Mapping[int, int], bits: int, mirror: int) -> tuple[int, ...]:
        """One sample or a pair that fill the room, or the longest sample that fits, or nothing."""
        if room <= self.capacity and self.left[room] > inside.get(room, 0):
            return (room,)
        if docs > 1 and room <= 2 * self.present[-1]:
            half = room // 2
            pairs = bits & (mirror >> (self.capacity - room)) & ((2 << half) - 1)
            if pairs:
                short = pairs.bit_length() - 1
                if 2 * short == room and self.left[short] - inside.get(short, 0) < 2:
                    pairs ^= 1 << short
                    short = pairs.bit_length() - 1
                if pairs:
                    return (short, room - short)
        place = bisect_right(self.present, room) - 1
        while place >= 0:
            length = self.present[place]
            if self.left[length] > inside.get(length, 0):
                return (length,)
            place -= 1
        return ()
