"""Which data-parallel rank gets which pack, so that all are done at the same time.

Packs have equally many tokens, but not equal attention: a pack of one long sample costs more than one of many short
samples. A step takes as long as its slowest rank. Pure functions; every rank computes the same from the same plan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan

MODEL_WIDTH = 4096
"""Hidden size of the model that costs are estimated for; larger models feel attention less."""
WINDOW_ROWS = 32
"""Packs of so many micro-steps, at least, are sorted together: data stay nearly in the order of the plan."""
Floats = NDArray[np.float64]


def pack_costs(plan: PackPlan, *, width: int = MODEL_WIDTH) -> Floats:
    """The cost of each pack in tokens' worth of work, float64 ``[packs]``, if samples do not see each other."""
    squares = np.zeros(len(plan))
    for first, last in plan.batches():
        begin, end = int(plan.offsets[first]), int(plan.offsets[last])
        length = plan.lengths_of(begin, end).astype(float)
        squares[first:last] = np.add.reduceat(length**2, plan.offsets[first:last] - begin)
    return costs_of_squares(squares, plan.seq_length, width=width)


def costs_of_squares(squares: Floats, seq_length: int, *, width: int = MODEL_WIDTH) -> Floats:
    """Costs of packs from their sums of squared lengths: a layer spends 24 width^2 on a token, and 2 width on each of
    the half square of pairs that causal attention looks at."""
    return seq_length + squares / (12 * width)


def deal_to_ranks(cost: Floats, *, ranks: int, accumulation: int = 1, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of packs, int64 ``[steps, ranks, accumulation]``; what is left after whole steps is left out.

    Packs are sorted by cost inside windows of 32 micro-steps, so that the packs of a micro-step are alike, and the
    micro-steps of a window are shuffled. Those of one step (one global batch) are then dealt longest processing time
    first: of each, the most costly pack goes to the rank with the least so far.
    """
    rows = _alike(cost, ranks, accumulation, rng)
    steps = len(rows) // accumulation
    load = rng.random((steps, ranks)) * 1e-3  # ranks begin in random order
    dealt = np.empty((steps, ranks, accumulation), np.int64)
    step = np.arange(steps)[:, None]
    for turn in range(accumulation):
        packs = rows[turn::accumulation]  # from the cheapest to the most costly
        rank = np.argsort(-load, axis=1, kind="stable")
        dealt[step, rank, turn] = packs
        load[step, rank] += cost[packs]
    return dealt


def lost_time(cost: Floats) -> float:
    """The share of time that ranks wait for the slowest; ``cost`` is that of each rank in each step."""
    slowest = float(cost.max(axis=1).sum()) if cost.size else 0.0
    return 1 - float(cost.mean(axis=1).sum()) / slowest if slowest else 0.0


def rank_costs(cost: Floats, dealt: NDArray[np.int64]) -> Floats:
    """Costs ``[steps, ranks]`` of packs that were dealt."""
    summed: Floats = cost[dealt].sum(axis=2)
    return summed


def _alike(cost: Floats, ranks: int, accumulation: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Packs ``[steps * accumulation, ranks]``: of like cost in each row, rows of a window in random order."""
    batch = ranks * accumulation
    steps = len(cost) // batch
    in_window = -(-WINDOW_ROWS // accumulation) * batch
    rows = np.empty((steps * accumulation, ranks), np.int64)
    for first in range(0, steps * batch, in_window):
        packs = np.arange(first, min(first + in_window, steps * batch))
        alike = packs[np.argsort(cost[packs], kind="stable")].reshape(-1, ranks)
        rows[first // ranks : first // ranks + len(alike)] = alike[rng.permutation(len(alike))]
    return rows
