"""The default: as few packs as there can be, long and short samples mixed, packs of equal attention cost.

Decreasing packers put samples of one length side by side, which makes a batch unlike the data: 50 times the variance of
a random draw for short instructions in packs of 8,192. Here samples are dealt (see ``deal``). How large a share to
deal, and how to close the packs, differs between data sets; plans are tried, on the histogram, until one is good. One
that has a few packs too many is mended: its emptiest packs are taken apart and packed again, as tightly as can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np

from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.best_fit import best_fit, best_fit_into
from seqpack.packing.bounds import lower_bound
from seqpack.packing.deal import deal
from seqpack.packing.exact import exact_into, fewer, fewest
from seqpack.packing.lengths import histogram
from seqpack.packing.mixing import design_effect
from seqpack.packing.patterns import Ints, Patterns

SHARES = (0.95, 0.98, 0.99, 0.995, 0.998, 0.9, 0.92, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4)
MOST_OVER = 0.001
"""So many packs more than the bound are a price that mixing may have."""
WELL_MIXED = 1.25
"""Design effect: 1 is a random draw."""
MENDED = (0.01, 0.03, 0.1)
"""Shares of the packs that are packed again where a well mixed plan has a few packs too many."""
MENDABLE = 0.01
"""So many packs too many may be mended where the bound is not reached, at the price of some mixing."""
OUT_OF_REACH = 0.01
"""So far above the bound are the fewest packs where there are few ways to fill one."""


class Balanced:
    """Fewest packs within a thousandth, well mixed; equal samples are mixed too, so that files are."""

    takes_any_integer = True

    def plan(
        self, lengths: Integers, *, seq_length: int, rng: np.random.Generator, max_docs: int | None = None
    ) -> PackPlan:
        counts = histogram(lengths, seq_length)
        patterns = balanced(counts, seq_length, max_docs=max_docs)
        return patterns.fill_with(lengths, counts, seq_length=seq_length, rng=rng, mix_equals=True)


def balanced(counts: Ints, capacity: int, *, max_docs: int | None = None) -> Patterns:
    """The first well mixed plan with no more packs than best-fit makes, or nearly the bound.

    Without one: the fewest packs among the well mixed plans near the bound or, where no plan is near, among those with
    no more packs than the fewest; else the best mixed near the fewest packs.
    Plans in which a pack has more than ``max_docs`` samples are passed over; a tight limit leaves those without mixing.
    """
    bound = lower_bound(counts, capacity)
    near = int(bound * (1 + MOST_OVER))
    plain = best_fit(counts, capacity, max_docs=max_docs)
    enough = max(bound, min(plain.num_packs, near))
    if plain.num_packs > near:
        plain = fewer(plain, counts, capacity, max_docs=max_docs)
    goal, most, mendable = enough, near, near
    if plain.num_packs > near:
        goal = most = plain.num_packs
        mendable = int(goal * (1 + MENDABLE))
    # where the bound is out of reach, samples do not fit together well, and many must be left for exact closing
    shares = SHARES if plain.num_packs <= bound * (1 + OUT_OF_REACH) else SHARES[-1:]
    tried: list[tuple[int, float, Patterns]] = []
    for patterns in chain(_plans(counts, capacity, shares), [plain]):
        if max_docs is not None and patterns.sums(patterns.times).max(initial=0) > max_docs:
            continue
        if goal < patterns.num_packs <= mendable:
            patterns = _mend(patterns, capacity, goal, max_docs)
        effect = design_effect(patterns)
        if patterns.num_packs <= enough and effect <= WELL_MIXED:
            return patterns
        tried.append((patterns.num_packs, effect, patterns))
    mixed = [found for found in tried if found[1] <= WELL_MIXED and found[0] <= most]
    if mixed:
        return min(mixed, key=lambda found: found[:2])[2]
    few = int(min(packs for packs, _, _ in tried) * (1 + MOST_OVER))
    return min((found for found in tried if found[0] <= few), key=lambda found: found[1])[2]


def _mend(patterns: Patterns, capacity: int, enough: int, max_docs: int | None) -> Patterns:
    """These packs, the least full ones packed again as tightly as can be, if there are then few ``enough``.

    The packs that were packed again are not mixed: as few of them as will do.
    """
    room = capacity - patterns.sums(patterns.length * patterns.times).astype(np.int64)
    emptiest_first = np.argsort(-room, kind="stable")
    upto = np.cumsum(patterns.packs[emptiest_first])
    for share in MENDED:
        again = np.zeros(len(room), bool)
        again[emptiest_first[: np.searchsorted(upto, share * upto[-1]) + 1]] = True
        items = again[patterns.group]
        packs = np.repeat(patterns.packs, np.diff(patterns.ends, prepend=0))[items]
        samples = np.bincount(patterns.length[items], weights=packs * patterns.times[items], minlength=capacity + 1)
        tight = fewest(samples.astype(np.int64), capacity, max_docs=max_docs)
        kept = np.flatnonzero(~again)
        if int(patterns.packs[kept].sum()) + tight.num_packs <= enough:
            return patterns.pick(kept, patterns.packs[kept]).together(tight)
    return patterns


def _plans(counts: Ints, capacity: int, shares: Sequence[float]) -> Iterator[Patterns]:
    """Plans to try, those first that are good for most data."""
    packs = -(-int((counts * np.arange(len(counts))).sum()) // capacity)
    closings = (partial(exact_into, capacity=capacity), partial(best_fit_into, capacity=capacity))
    for share in shares if packs else ():
        for close in closings:
            yield deal(counts, capacity, packs, share=share, close=close)
