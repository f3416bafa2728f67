"""What a plan is worth: packs against the fewest possible, mixing of lengths, and balance of attention cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan, round_up
from seqpack.packing.bounds import lower_bound
from seqpack.packing.mixing import effect_of_sums
from seqpack.packing.ranks import costs_of_squares, lost_time

RANKS = 8


@dataclass(frozen=True, slots=True)
class PlanQuality:
    """``over`` is the share of packs above ``lower_bound``, ``fill`` the share of places that hold a token.

    ``design_effect`` is 1 for packs like random draws and larger where packs hold samples of one length (see
    ``mixing``). ``cost_cv`` is the coefficient of variation of the sum of squared lengths per pack, which attention
    costs if samples do not see each other. ``dp8`` is the share of time that 8 ranks with a pack each per step, in the
    plan's order, lose to the slowest.
    """

    packs: int
    lower_bound: int
    over: float
    fill: float
    design_effect: float
    cost_cv: float
    dp8: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def assess(plan: PackPlan) -> PlanQuality:
    """Measure a plan. Linear, in batches: memory does not grow with the number of samples but by 32 bytes per pack."""
    log = np.log(np.maximum(np.arange(plan.seq_length + 1), 1))
    docs = np.diff(plan.offsets).astype(float)
    tokens, squares, logs = (np.zeros(len(plan)) for _ in range(3))
    log_squares = 0.0
    counts = np.zeros(plan.seq_length + 1, np.int64)
    for first, last in plan.batches():
        begin, end = int(plan.offsets[first]), int(plan.offsets[last])
        length = plan.lengths_of(begin, end)
        starts = plan.offsets[first:last] - begin
        counts += np.bincount(round_up(length, plan.align), minlength=len(counts))
        tokens[first:last] = np.add.reduceat(length, starts)
        squares[first:last] = np.add.reduceat(length.astype(float) ** 2, starts)
        of_pieces = log[length]
        logs[first:last] = np.add.reduceat(of_pieces, starts)
        log_squares += float((of_pieces**2).sum())
    # where samples may be cut, only the number of tokens bounds the number of packs
    cut = plan.cut_length is not None
    bound = -(-int(tokens.sum()) // plan.seq_length) if cut else lower_bound(counts, plan.seq_length)
    return PlanQuality(
        packs=len(plan),
        lower_bound=bound,
        over=len(plan) / bound - 1 if bound else 0.0,
        fill=float(tokens.sum()) / (len(plan) * plan.seq_length) if len(plan) else 1.0,
        design_effect=effect_of_sums(np.ones(len(plan), np.int64), docs, logs, log_squares),
        cost_cv=_variation(squares),
        dp8=lost_time(_steps(costs_of_squares(squares, plan.seq_length))),
    )


def _variation(values: NDArray[np.float64]) -> float:
    return float(values.std() / values.mean()) if len(values) else 0.0


def _steps(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs ``[steps, ranks]`` of packs in the plan's order; what fills no step is left out."""
    steps = len(cost) // RANKS
    return cost[: steps * RANKS].reshape(steps, RANKS)
