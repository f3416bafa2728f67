"""Algorithms by name: those of ``--context-parallel-algo``, with the names MindSpeed has for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError
from seqpack.cp.auto import Offer, cheapest, offers
from seqpack.cp.cost import AttentionShape, Rates, exchange_pairs
from seqpack.cp.headdoc import headdoc
from seqpack.cp.hybrid import HybridPlan, ulysses_degree
from seqpack.cp.kvallgather import kvallgather
from seqpack.cp.placements import contiguous, document_aware, per_document, zigzag
from seqpack.cp.planned import planned
from seqpack.cp.ring import RingPlan
from seqpack.cp.ulysses import ulysses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.cp.plan import Placement
    from seqpack.cp.protocol import Algorithm, ContextPlan

ALIASES = {
    "megatron_cp_algo": "ring",
    "ulysses_cp_algo": "ulysses",
    "hybrid_cp_algo": "hybrid",
    "kvallgather_cp_algo": "kvallgather",
    "needed": "planned",
}
PLACEMENTS: dict[str, Callable[[NDArray[np.int32], int], Placement]] = {
    "zigzag": zigzag,
    "contiguous": contiguous,
    "per-document": per_document,
    "document-aware": document_aware,
}
NEED_PARTS = frozenset({"ring", "hybrid"})
"""Algorithms whose attention is computed over some of the keys at a time."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What a run asks for: ``size`` ranks, an algorithm by any of its names, and what else was said about it."""

    size: int
    algorithm: str = "auto"
    placement: str = "zigzag"
    inner_ring: int | None = None
    ulysses_degree: int | None = None

    @property
    def name(self) -> str:
        """The algorithm's own name."""
        return ALIASES.get(self.algorithm, self.algorithm)


class Planner:
    """Plans for the batches of a run whose attention has a ``shape``, on a device with these ``rates``.

    Without ``parts``, its attention cannot compute over some of the keys at a time. Raises ConfigError SP605 for
    settings that the number of ranks or of heads does not allow.
    """

    def __init__(self, settings: ContextSettings, shape: AttentionShape, rates: Rates, *, parts: bool = True) -> None:
        self.settings, self.shape, self.rates = settings, shape, rates
        degree = ulysses_degree(settings.size, shape.query_heads, shape.key_heads, settings.ulysses_degree)
        for name, ranks in (("ring", settings.size), ("hybrid", settings.size // degree)):
            if settings.name == name:
                _check_inner_ring(settings.inner_ring, ranks)
        known = _algorithms(settings, degree, exchange_pairs(shape, rates, settings.size))
        self._algorithms = {name: known[name] for name in known if parts or name not in NEED_PARTS}

    def plan(self, cu_seqlens: NDArray[np.int32]) -> ContextPlan:
        """The plan for one batch: that of the chosen algorithm, or of the cheapest."""
        if self.settings.name != "auto":
            return self._algorithms[self.settings.name](cu_seqlens, self.settings.size)
        found = self.offers(cu_seqlens)
        return found[cheapest(found)].plan

    def offers(self, cu_seqlens: NDArray[np.int32]) -> dict[str, Offer]:
        """What every algorithm would do with one batch."""
        return offers(self._algorithms, cu_seqlens, self.settings.size, self.shape, self.rates)


def _algorithms(settings: ContextSettings, degree: int, row_pairs: float) -> dict[str, Algorithm]:
    place = PLACEMENTS[settings.placement]
    return {
        "headdoc": partial(headdoc, row_pairs=row_pairs),
        "planned": planned,
        "ulysses": ulysses,
        "ring": lambda cu, size: RingPlan(place(cu, size), _fitting(settings.inner_ring, size)),
        "hybrid": lambda cu, size: _hybrid(place(cu, size // degree), settings.inner_ring, degree),
        "kvallgather": kvallgather,
    }


def _hybrid(placement: Placement, inner: int | None, degree: int) -> HybridPlan:
    return HybridPlan(RingPlan(placement, _fitting(inner, placement.size)), degree)


def _fitting(inner: int | None, ranks: int) -> int | None:
    """The inner ring where it divides the ring; an algorithm that was not asked for is priced without it elsewhere."""
    return inner if inner is not None and ranks % inner == 0 else None


def _check_inner_ring(inner: int | None, ranks: int) -> None:
    if inner is not None and ranks % inner:
        raise ConfigError(
            "SP605",
            f"--cp-window-size {inner} does not divide the {ranks} ranks of the ring",
            help="choose a divisor, or leave it out: all ranks then form one ring",
        )
