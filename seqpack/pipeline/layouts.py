"""What every way of laying out samples would cost: padding, each packing strategy, other lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DeviceError
from seqpack.core.plan import Integers, PackPlan, index_dtype
from seqpack.core.types import running_sum
from seqpack.hooks.host import plugin_host
from seqpack.options.data import StrategyOptions
from seqpack.packing.planning import cuts_samples, make_plan
from seqpack.packing.quality import PlanQuality, assess

PADDED_BATCH = 8
KEPT_TOKENS = 0.999
"""A suggested length cuts at most one token in a thousand."""
MOST_CANDIDATES = 6
PACKED_BY_DEFAULT = f"pack, {StrategyOptions().strategy}"
"""Name of the layout that preprocess makes unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What one layout of the samples takes for an epoch: ``elements`` tokens, of which the share ``fill`` is real.

    ``cut_samples`` are those not kept whole; ``quality`` is None where nothing is packed. ``note`` says why a strategy
    could not be tried: all numbers are 0 then.
    """

    name: str
    rows: int
    elements: int
    fill: float
    versus_best: float
    cut_samples: int = 0
    quality: PlanQuality | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """About what ``--seq-length`` would bring: packs, samples that are longer, and the share of tokens kept."""

    seq_length: int
    rows: int
    fill: float
    longer: int
    kept: float


def plan_quality(lengths: Integers, offsets: Integers, *, seq_length: int) -> PlanQuality:
    """Measure packs; pack ``p`` holds pieces of ``lengths[offsets[p]:offsets[p + 1]]`` tokens."""
    return assess(PackPlan(seq_length, np.arange(len(lengths), dtype=index_dtype(len(lengths))), offsets, lengths))


def layouts(
    lengths: NDArray[np.int64],
    *,
    seq_length: int,
    seed: int,
    cut: int = 0,
    first: tuple[Layout, ...] = (),
    uncut: NDArray[np.int64] | None = None,
) -> tuple[Layout, ...]:
    """Padding to the length, padding to the longest of a batch, and every packing strategy there is.

    ``lengths`` fit ``seq_length``; ``cut`` of the samples behind them were shortened or left out for that. ``first``
    are layouts that exist already. ``uncut`` are the lengths as they would be without a limit, for strategies that cut
    samples themselves.
    """
    batches = np.arange(0, len(lengths), PADDED_BATCH)
    longest = np.maximum.reduceat(lengths, batches)
    sizes = np.diff(np.append(batches, len(lengths)))
    total = int(lengths.sum())
    found = [
        *first,
        layout(f"pad to {seq_length:,}", len(lengths), len(lengths) * seq_length, total, cut),
        layout(f"pad to longest of {PADDED_BATCH}", len(lengths), int((longest * sizes).sum()), total, cut),
        *_packed(lengths, lengths if uncut is None else uncut, seq_length, seed, cut),
    ]
    best = min(each.elements for each in found if each.rows)
    return tuple(replace(each, versus_best=each.elements / best) if each.rows else each for each in found)


def layout(
    name: str, rows: int, elements: int, tokens: int, cut: int = 0, quality: PlanQuality | None = None
) -> Layout:
    """A layout that is not compared with others yet."""
    return Layout(name, rows, elements, tokens / elements, 1.0, cut, quality)


def concatenated(lengths: NDArray[np.int64], seq_length: int) -> Layout:
    """All documents as one stream that is cut every ``seq_length`` tokens, the usual way to pretrain."""
    total = int(lengths.sum())
    rows = -(-total // seq_length)
    ends = np.cumsum(lengths)
    cut = int(((ends - 1) // seq_length > (ends - lengths) // seq_length).sum())
    return layout("concatenate and cut", rows, rows * seq_length, total, cut)


def of_plan(name: str, plan: PackPlan, *, num_samples: int, cut: int = 0) -> Layout:
    """The layout that a plan over ``num_samples`` samples makes."""
    quality = assess(plan)
    if len(plan.sample) > num_samples:  # more pieces than samples
        cut += int((np.bincount(plan.sample) > 1).sum())
    return layout(name, len(plan), len(plan) * plan.seq_length, int(plan.length.sum()), cut, quality)


def suggest_length(lengths: NDArray[np.int64], *, kept: float = KEPT_TOKENS) -> int:
    """The smallest power of two such that cutting there keeps at least the share ``kept`` of the tokens."""
    total, length = lengths.sum(), 2
    while np.minimum(lengths, length).sum() < kept * total:
        length *= 2
    return length


def candidates(lengths: NDArray[np.int64], *, seed: int) -> tuple[Candidate, ...]:
    """Powers of two around the suggestion, each with about the packs that the default strategy would make.

    ``about``, because samples are cut at the very length here, and ``preprocess`` cuts whole exchanges.
    """
    strategy = plugin_host().strategy(StrategyOptions().strategy)
    suggested, total = suggest_length(lengths), int(lengths.sum())
    longest = suggest_length(lengths, kept=1.0)
    powers = [max(2, suggested >> 2) << step for step in range(MOST_CANDIDATES)]
    found = []
    for length in sorted({power for power in powers if power <= max(longest, suggested)}):
        clipped = np.minimum(lengths, length)
        rows = len(make_plan(strategy, clipped, seq_length=length, seed=seed))
        tokens = int(clipped.sum())
        longer = int((lengths > length).sum())
        found.append(Candidate(length, rows, tokens / (rows * length), longer, tokens / total))
    return tuple(found)


def attended_share(lengths: NDArray[np.int64], rows: int, *, seq_length: int) -> float:
    """Attention work inside samples, as a share of full triangles over ``rows`` rows."""
    return float((lengths * (lengths + 1) // 2).sum() / (rows * (seq_length * (seq_length + 1) // 2)))


def piece_offsets(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted numbers of rows -> where each row begins, and the end: [0, 0, 3] -> [0, 2, 3]."""
    _, sizes = np.unique(rows, return_counts=True)
    return running_sum(sizes)


def _packed(
    lengths: NDArray[np.int64], uncut: NDArray[np.int64], seq_length: int, seed: int, cut: int
) -> Iterator[Layout]:
    for strategy in plugin_host().strategies:
        name = f"pack, {strategy.name}"
        if getattr(strategy.load(), "is_slow", False):
            yield Layout(name, 0, 0, 0.0, 0.0, note="not tried, because it takes long")
            continue
        if cuts_samples(strategy):
            plan = make_plan(strategy, uncut, seq_length=seq_length, seed=seed)
            yield of_plan(name, plan, num_samples=len(uncut), cut=cut if uncut is lengths else 0)
            continue
        try:
            plan = make_plan(strategy, lengths, seq_length=seq_length, seed=seed)
        except DeviceError as error:  # a package that only this strategy needs
            yield Layout(name, 0, 0, 0.0, 0.0, note=error.message)
            continue
        yield of_plan(name, plan, num_samples=len(lengths), cut=cut)
