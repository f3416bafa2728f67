"""``hybrid``: rows by heads among neighbours, and a ring across these groups.

Ranks 0 .. u - 1 are the first group of degree u. A group holds one share of a ring placement, each of its ranks a piece
of that; for attention every rank gets all rows of the share for its heads, and passes them round among the ranks that
have the same heads in other groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.cp.cost import AttentionShape, Price, Rates, by_heads
from seqpack.cp.heads import HeadExchange
from seqpack.cp.kernels import Kernels, heads_first, tokens_first
from seqpack.cp.plan import Placement, head_shares, sizes
from seqpack.cp.ring import RingOrGather, RingPlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seqpack.cp.exchange import Wire


@dataclass(frozen=True, eq=False)
class HybridPlan:
    """``ring`` is over the groups, ``degree`` the number of ranks in each."""

    ring: RingPlan
    degree: int
    name: str = "hybrid"

    @cached_property
    def placement(self) -> Placement:
        shares = self.ring.placement.rows
        pieces = (np.split(rows, np.cumsum(sizes(len(rows), self.degree))[:-1]) for rows in shares)
        return Placement(self.ring.placement.cu_seqlens, tuple(piece for group in pieces for piece in group))

    def digest(self) -> bytes:
        return self.placement.digest(self.name, self.degree, self.ring.digest())

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        shares = head_shares(shape.query_heads, shape.key_heads, self.degree)
        sent, pairs = np.zeros((2, self.ring.placement.size, self.degree))
        seconds = []
        for place, share in enumerate(shares):
            heads = replace(shape, query_heads=len(share.queries), key_heads=len(share.keys))
            price = self.ring.price(heads, rates)
            sent[:, place] = price.sent
            pairs[:, place] = np.array(price.pairs) * len(share.queries) / shape.query_heads
            seconds.append(price.seconds)
        moved = []
        for group, rows in enumerate(self.ring.placement.rows):
            inputs, outputs = (x * shape.head_size for x in by_heads(sizes(len(rows), self.degree), shares))
            sent[group] += inputs + outputs
            moved += [rates.travel(x, shape, self.degree - 1).max() for x in (inputs, outputs)]
        all_sent = tuple(sent.astype(np.int64).ravel().tolist())
        return Price(all_sent, tuple(pairs.ravel().tolist()), max(seconds) + 2 * max(moved))

    def bind(self, wire: Wire, device: torch.device) -> HybridAttention:
        group, place = divmod(wire.rank, self.degree)
        across = range(place, wire.size, self.degree)
        within = range(group * self.degree, (group + 1) * self.degree)
        num_rows = sizes(len(self.ring.placement.rows[group]), self.degree).tolist()
        ring = RingOrGather(self.ring.placement, group, wire, device, across, self.ring.inner)
        return HybridAttention(HeadExchange(wire, within, place, num_rows), ring)


@dataclass(frozen=True, slots=True, eq=False)
class HybridAttention:
    """One rank's part."""

    exchange: HeadExchange
    ring: RingOrGather

    def __call__(
        self,
        q_1NTH: Tensor,
        k_1KTH: Tensor,
        v_1KTH: Tensor,
        *,
        kernels: Kernels,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """See ``Attend``."""
        under_way = self.exchange.start(*(tokens_first(x) for x in (q_1NTH, k_1KTH, v_1KTH)))
        out_TNH = self.ring(*under_way.arrive(), kernels=kernels, scale=scale, window=window)
        return self.exchange.give_back(heads_first(out_TNH), under_way.shares)


def ulysses_degree(size: int, query_heads: int, key_heads: int, asked: int | None = None) -> int:
    """Ranks in a group: as many as key heads and ranks allow, or ``asked``; ConfigError SP605 if that cannot be."""
    if asked is None:
        return math.gcd(size, key_heads)
    if size % asked or asked > query_heads:
        raise ConfigError(
            "SP605",
            f"--ulysses-degree-in-cp {asked} does not divide --cp {size}, or is more than {query_heads} query heads",
            help=f"leave it out: {math.gcd(size, key_heads)} fits",
        )
    return asked
