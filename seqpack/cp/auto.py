"""``auto``: every plan of a batch is priced from its boundaries, and the cheapest is taken.

The ranks do not talk about it: each comes to the same choice from the same boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqpack.cp.cost import AttentionShape, Price, Rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.cp.protocol import Algorithm, ContextPlan


EVEN = 1.25
"""Most work of a rank over the mean up to which an offer counts as even."""
WORTH = 1.5
"""How much longer an even offer may take than the cheapest one."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The plan of one algorithm for one batch, and what it costs."""

    plan: ContextPlan
    price: Price


def offers(
    algorithms: Mapping[str, Algorithm], cu_seqlens: NDArray[np.int32], size: int, shape: AttentionShape, rates: Rates
) -> dict[str, Offer]:
    """What every algorithm would do with a batch."""
    plans = {name: algorithm(cu_seqlens, size) for name, algorithm in algorithms.items()}
    return {name: Offer(plan, plan.price(shape, rates)) for name, plan in plans.items()}


def cheapest(found: Mapping[str, Offer]) -> str:
    """The name of the offer that takes least time; of equal ones the first.

    Times are reckoned from rough rates, work is counted: an uneven offer has to be much cheaper than every even one.
    """
    best = min(found, key=lambda name: found[name].price.seconds)
    even = [name for name in found if found[name].price.balance <= EVEN]
    if best in even or not even:
        return best
    best_even = min(even, key=lambda name: found[name].price.seconds)
    return best_even if found[best_even].price.seconds <= WORTH * found[best].price.seconds else best
