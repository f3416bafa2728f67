"""Plans as patterns: "so many packs, each of these lengths". What planners make, independent of the number of samples.

``Patterns.fill_with`` puts samples in: one pass over the samples by length, in which every place of every pattern
takes a run of equal samples at once. No step is per sample in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.packing.lengths import by_length, stable_order

PLACES_AT_A_TIME = 1 << 18
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Patterns:
    """Pattern ``g`` stands for ``packs[g]`` packs, each with ``times[i]`` samples of length ``length[i]`` for ``i`` in
    ``ends[g - 1]:ends[g]``; all int64."""

    packs: Ints
    ends: Ints
    length: Ints
    times: Ints

    @classmethod
    def of(cls, found: Iterable[tuple[int, Mapping[int, int]]]) -> Patterns:
        """From pairs of a number of packs and the samples in each, by length; empty packs are left out."""
        kept = [(packs, inside) for packs, inside in found if packs and inside]
        return cls(
            np.array([packs for packs, _ in kept], np.int64),
            np.cumsum([len(inside) for _, inside in kept], dtype=np.int64),
            np.array([length for _, inside in kept for length in inside], np.int64),
            np.array([times for _, inside in kept for times in inside.values()], np.int64),
        )

    @classmethod
    def of_items(cls, packs: Ints, group: Ints, length: Ints, times: Ints) -> Patterns:
        """From items in any order, each in the pattern ``group``."""
        order = np.argsort(group, kind="stable")
        return cls(packs, np.cumsum(np.bincount(group, minlength=len(packs))), length[order], times[order])

    @property
    def num_packs(self) -> int:
        return int(self.packs.sum())

    @property
    def group(self) -> Ints:
        """The pattern of each item."""
        return np.repeat(np.arange(len(self.packs)), np.diff(self.ends, prepend=0))

    def sums(self, values: Ints | NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of a value of each item, by pattern."""
        return np.bincount(self.group, weights=values, minlength=len(self.packs)).astype(np.float64)

    def used(self) -> Patterns:
        """Without the patterns that stand for no pack or hold nothing."""
        keep = (self.packs > 0) & (np.diff(self.ends, prepend=0) > 0)
        items = keep[self.group]
        sizes = np.diff(self.ends, prepend=0)[keep]
        return Patterns(self.packs[keep], np.cumsum(sizes), self.length[items], self.times[items])

    def pick(self, patterns: Ints, packs: Ints) -> Patterns:
        """These patterns, in this order, for other numbers of packs."""
        sizes = np.diff(self.ends, prepend=0)[patterns]
        ends = np.cumsum(sizes)
        items = np.arange(int(sizes.sum())) + np.repeat(self.ends[patterns] - ends, sizes)
        return Patterns(packs, ends, self.length[items], self.times[items])

    def beside(self, other: Patterns) -> Patterns:
        """Pattern by pattern, the contents of both in one pack."""
        group = np.concatenate([self.group, other.group])
        length, times = (
            np.concatenate([self.length, other.length]),
            np.concatenate([self.times, other.times]),
        )
        return Patterns.of_items(self.packs, group, length, times)

    def together(self, other: Patterns) -> Patterns:
        """The packs of both."""
        return Patterns(
            np.concatenate([self.packs, other.packs]),
            np.concatenate([self.ends, other.ends + len(self.length)]),
            np.concatenate([self.length, other.length]),
            np.concatenate([self.times, other.times]),
        )

    def fill_with(
        self,
        lengths: Integers,
        counts: Ints,
        *,
        seq_length: int,
        rng: np.random.Generator,
        mix_equals: bool = False,
    ) -> PackPlan:
        """The plan: packs in random order, since in that of patterns long samples would come first.

        ``counts`` is the histogram of ``lengths``. Equal samples go in their order, or mixed. Costs 12 bytes per sample
        at most, 8 of them for the result and the sorted samples, and 12 per pack.
        """
        kind = index_dtype(len(lengths))
        order = by_length(lengths, counts, rng if mix_equals else None)
        size = np.repeat(self.sums(self.times).astype(kind), self.packs)  # of packs in the order of patterns
        shuffled = np.arange(len(size), dtype=kind)
        rng.shuffle(shuffled)
        offsets = np.zeros(len(size) + 1, kind)
        np.cumsum(size[shuffled], out=offsets[1:])
        pack_start = size  # not needed any more
        pack_start[shuffled] = offsets[:-1]
        del shuffled
        sample = np.empty(len(lengths), kind)
        self._place(order, sample, pack_start, rng)
        return PackPlan(seq_length, sample, offsets, lengths)

    def _place(
        self,
        order: NDArray[np.signedinteger],
        sample: NDArray[np.signedinteger],
        pack_start: Integers,
        rng: np.random.Generator,
    ) -> None:
        group = np.repeat(self.group, self.times)
        length = np.repeat(self.length, self.times)
        first_pack = np.cumsum(self.packs) - self.packs
        first_item = np.searchsorted(group, np.arange(len(self.packs)))
        inside = np.empty_like(group)  # places inside a pack are drawn, else long samples would always come last
        inside[np.argsort(group + rng.random(len(group)))] = np.arange(len(group)) - first_item[group]
        by_size = stable_order(length, int(length.max(initial=0)) + 1)
        group, inside = group[by_size], inside[by_size]
        bounds = np.concatenate([[0], np.cumsum(self.packs[group])])  # samples by length that each place takes
        shift = first_pack[group] - bounds[:-1]
        assert bounds[-1] == len(order), "patterns hold other samples than the set"
        for begin in range(0, len(order), PLACES_AT_A_TIME):
            end = min(begin + PLACES_AT_A_TIME, len(order))
            first = int(np.searchsorted(bounds, begin, side="right")) - 1
            last = int(np.searchsorted(bounds, end, side="left"))
            runs = np.diff(np.clip(bounds[first : last + 1], begin, end))
            pack = np.repeat(shift[first:last], runs)
            pack += np.arange(begin, end)
            place = pack_start[pack] + np.repeat(inside[first:last], runs)
            sample[place] = order[begin:end]


def unroll(packs: Ints, chain: Ints, before: Ints, length: Ints, times: Ints) -> Patterns:
    """Patterns from chains: pattern ``g`` is ``packs[g]`` packs with the contents of the chain that ends at link
    ``chain[g]``.

    A link is ``times`` samples of ``length`` behind the link ``before``, -1 for none; chains share their beginnings.
    """
    group, node = np.arange(len(packs)), chain
    groups, nodes = [], []
    while len(node):
        keep = node >= 0
        group, node = group[keep], node[keep]
        groups.append(group)
        nodes.append(node)
        node = before[node]
    at = np.concatenate([*nodes, np.zeros(0, np.int64)])
    return Patterns.of_items(
        packs, np.concatenate([*groups, np.zeros(0, np.int64)]).astype(np.int64), length[at], times[at]
    )
