"""Best-fit decreasing: longest sample first, each into the pack with the least room that still takes it.

Planned on the histogram. Open packs are groups of equals, by room; the rooms are the bits of integers, so that the
least room of at least ``l`` is a shift and a mask. All samples of a length go into a group at once, as many into each
pack as it takes. The packs are those of the textbook (of TRL, OLMo-core and seqpacker, apart from which of equal
samples goes where); the cost depends on the number of distinct lengths alone: some 10 to 100 ms up to 32,768 tokens,
for a thousand samples as for a thousand million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.lengths import histogram
from seqpack.packing.patterns import Ints, Patterns, unroll

NO_LIMIT = 1 << 60
Group = tuple[int, int, int, int]
"""Equal packs: how many, their chain, how many more samples each may take, the room they began with."""
WORD = 9
"""Binary logarithm of the bits in a word of rooms: short enough to be copied for nothing, long enough to be few."""
BITS = (1 << WORD) - 1


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
    opened = _OpenPacks(capacity, max_docs or NO_LIMIT)
    for room, packs in rooms.items():
        opened.put(room, (packs, -1, opened.max_docs, room))
    lengths = np.flatnonzero(counts)[::-1]
    for length, samples in zip(lengths.tolist(), counts[lengths].tolist(), strict=True):
        left = opened.spread(length, samples)
        if left:
            opened.open(length, left, capacity)
    packs, last, _, began = _columns([*opened.closed, *chain.from_iterable(opened.groups.values())], 4)
    return unroll(packs, last, *_columns(opened.links, 3)), began


class _OpenPacks:
    """Groups of open packs by their room. Rooms are bits of ``words``, the bits of ``used`` say which words have any.

    A link ``(before, length, times)`` is the end of a chain: what a pack got last, and the link before it or -1.
    """

    def __init__(self, capacity: int, max_docs: int) -> None:
        self.max_docs = max_docs
        self.groups: dict[int, list[Group]] = {}
        self.words = [0] * ((capacity >> WORD) + 1)
        self.used = 0
        self.closed: list[Group] = []
        self.links: list[tuple[int, int, int]] = []

    def put(self, room: int, group: Group) -> None:
        """A group of packs with so much room."""
        if room == 0 or group[2] == 0:
            self.closed.append(group)
        elif room in self.groups:
            self.groups[room].append(group)
        else:
            self.groups[room] = [group]
            word = room >> WORD
            self.words[word] |= 1 << (room & BITS)
            self.used |= 1 << word

    def spread(self, length: int, samples: int) -> int:
        """Put samples of one length into open packs, tightest first; returns how many found no room."""
        links, put = self.links, self.put  # most of the time of a plan is spent here
        word, room = length >> WORD, length
        bits = self.words[word] >> (length & BITS)  # rooms from ``room`` on
        while samples:
            if not bits:
                further = self.used >> (word + 1)
                if not further:
                    break
                word += _place_of_lowest(further)
                room, bits = word << WORD, self.words[word]
            step = _place_of_lowest(bits)
            room, bits = room + step - 1, bits >> step
            groups, most = self.groups[room], room // length
            while groups and samples:
                packs, last, docs, began = groups.pop()
                each = most if most < docs else docs
                full, rest = divmod(samples, each)
                if full >= packs:
                    full, rest = packs, 0
                if full:
                    links.append((last, length, each))
                    put(room - each * length, (full, len(links) - 1, docs - each, began))
                if rest:
                    links.append((last, length, rest))
                    put(room - rest * length, (1, len(links) - 1, docs - rest, began))
                samples -= full * each + rest
                if packs > full + bool(rest):
                    groups.append((packs - full - bool(rest), last, docs, began))
            if not groups:
                self._remove(room)
            room += 1
        return samples

    def open(self, length: int, samples: int, capacity: int) -> None:
        """New packs for samples of one length."""
        each = min(capacity // length, self.max_docs)
        full, rest = divmod(samples, each)
        if full:
            self.links.append((-1, length, each))
            self.put(capacity - each * length, (full, len(self.links) - 1, self.max_docs - each, capacity))
        if rest:
            self.links.append((-1, length, rest))
            self.put(capacity - rest * length, (1, len(self.links) - 1, self.max_docs - rest, capacity))

    def _remove(self, room: int) -> None:
        del self.groups[room]
        word = room >> WORD
        self.words[word] ^= 1 << (room & BITS)
        if not self.words[word]:
            self.used ^= 1 << word


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> Ints:
    """Tuples as columns, int64 ``[width, rows]``; np.array takes twice as long."""
    return np.fromiter(chain.from_iterable(rows), np.int64, width * len(rows)).reshape(-1, width).T


def _place_of_lowest(bits: int) -> int:
    """Place of the lowest bit that is set, from 1."""
    return (bits ^ (bits - 1)).bit_length()
