"""Best-fit decreasing: longest sample first, each into the pack with the least room that still takes it.

Planned on the histogram. Open packs are groups of equals, by room; the rooms are the bits of one big integer, so that
the least room of at least ``l`` is a shift and a mask. All samples of a length go into a group at once, as many into
each pack as it takes. The packs are those of the textbook (of TRL, OLMo-core and seqpacker, apart from which of equal
samples goes where); the cost depends on the number of distinct lengths alone: some 10 to 100 ms up to 32,768 tokens,
for a thousand samples as for a thousand million.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.lengths import histogram
from seqpack.packing.patterns import Chains, Ints, Patterns, unroll

NO_LIMIT = 1 << 60
Group = list[int]
"""Equal packs: how many, their chain, how many more samples each may take, the room they began with."""


class BestFit:
    """Few packs of samples of like length; they come out in random order, not from long to short."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        counts = histogram(lengths, seq_length)
        patterns = best_fit(counts, seq_length, max_docs=max_docs)
        return patterns.fill_with(lengths, counts, seq_length=seq_length, rng=rng)


def best_fit(counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """Best-fit decreasing of so many samples of each length into packs of ``capacity``."""
    return best_fit_into({}, counts, capacity, max_docs=max_docs)[0]


def best_fit_into(
    rooms: Mapping[int, int], counts: Ints, capacity: int, *, max_docs: int | None = None
) -> tuple[Patterns, Ints]:
    """The same, beginning with open packs: how many there are of each room.

    Returns what is added to the packs, and the room that each pattern's packs began with.
    """
    opened = _OpenPacks(max_docs or NO_LIMIT)
    for room, packs in rooms.items():
        opened.put(room, [packs, -1, opened.max_docs, room])
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = opened.spread(length, int(counts[length]))
        if left:
            opened.open(length, left, capacity)
    groups = np.array([*opened.closed, *(group for found in opened.groups.values() for group in found)], np.int64)
    groups = groups.reshape(-1, 4)
    chains = opened.chains
    patterns = unroll(groups[:, 0], groups[:, 1], chains.before, chains.length, chains.times)
    return patterns, groups[:, 3]


class _OpenPacks:
    def __init__(self, max_docs: int) -> None:
        self.max_docs = max_docs
        self.chains = Chains()
        self.groups: dict[int, list[Group]] = {}
        self.bits = 0
        self.closed: list[Group] = []

    def put(self, room: int, group: Group) -> None:
        """A group of packs with so much room."""
        if room == 0 or group[2] == 0:
            self.closed.append(group)
        elif room in self.groups:
            self.groups[room].append(group)
        else:
            self.groups[room] = [group]
            self.bits |= 1 << room

    def add(self, group: Group, packs: int, room: int, length: int, times: int) -> None:
        """Put ``times`` samples into each of ``packs`` packs of a group."""
        chain = self.chains.add(group[1], length, times)
        self.put(room - times * length, [packs, chain, group[2] - times, group[3]])

    def spread(self, length: int, samples: int) -> int:
        """Put samples of one length into open packs, tightest first; returns how many found no room."""
        above = self.bits >> length
        base = length
        while above and samples:
            step = (above & -above).bit_length()
            room = base + step - 1
            above >>= step
            base = room + 1
            samples = self._fill(room, length, samples)
        return samples

    def _fill(self, room: int, length: int, samples: int) -> int:
        groups = self.groups[room]
        while groups and samples:
            group = groups[-1]
            each = min(room // length, group[2])
            full, rest = divmod(samples, each)
            if full >= group[0]:
                groups.pop()
                self.add(group, group[0], room, length, each)
                samples -= each * group[0]
                continue
            samples = 0
            if full:
                self.add(group, full, room, length, each)
            if rest:
                self.add(group, 1, room, length, rest)
            group[0] -= full + bool(rest)
            if not group[0]:
                groups.remove(group)
        if not groups:
            del self.groups[room]
            self.bits &= ~(1 << room)
        return samples

    def open(self, length: int, samples: int, capacity: int) -> None:
        """New packs for samples of one length."""
        empty = [0, -1, self.max_docs, capacity]
        each = min(capacity // length, self.max_docs)
        full, rest = divmod(samples, each)
        if full:
            self.add(empty, full, capacity, length, each)
        if rest:
            self.add(empty, 1, capacity, length, rest)
