"""``ring``: keys and values of one rank after the other pass by, and results are merged.

Only rows that some query of a rank sees are sent to it, straight from their holder, while it computes on those before.
Each rank keeps the keys of one other rank at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seqpack.cp.cost import AttentionShape, Price, Rates, causal_pairs, ringed, whole_pairs
from seqpack.cp.gather import WindowedGather
from seqpack.cp.ring_attention import RingAttention
from seqpack.cp.rotation import lent, own_keys, partner, visits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seqpack.cp.exchange import Wire
    from seqpack.cp.kernels import Kernels
    from seqpack.cp.plan import Placement


@dataclass(frozen=True, slots=True, eq=False)
class RingPlan:
    """A ring over any placement; ``inner`` ranks form an inner ring of a double ring, all of them by default."""

    placement: Placement
    inner: int | None = None
    name: str = "ring"

    def digest(self) -> bytes:
        return self.placement.digest(self.name, self.inner)

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        placement, size = self.placement, self.placement.size
        exact, sent = np.zeros(size), np.zeros(size, np.int64)
        steps = []
        for step in visits(size, self.inner or size):
            pairs, moves = np.zeros(size), np.zeros(size)
            for rank, runs in enumerate(placement.runs):
                source = partner(rank, size, self.inner or size, step, -1)
                if source == rank:
                    own = own_keys(placement, rank)
                    exact[rank] += causal_pairs(runs.lengths, own[1]).sum()
                    pairs[rank] = causal_pairs(runs.lengths, own[1], rates.tile).sum()
                    continue
                comes = lent(placement, source, rank)
                exact[rank] += whole_pairs(runs.lengths[comes.run], comes.length).sum()
                pairs[rank] = whole_pairs(runs.lengths[comes.run], comes.length, rates.tile).sum()
                moves[rank] = len(comes.rows) * shape.key_row
                sent[rank] += len(comes.rows)  # gradients, home
                sent[source] += 2 * len(comes.rows)  # rows, forward and again backward
            steps.append((rates.seconds(pairs, shape), rates.travel(moves, shape, 1)))
        computed, moved = zip(*steps, strict=True)
        return Price(tuple((sent * shape.key_row).tolist()), tuple(exact.tolist()), ringed(computed, moved))

    def bind(self, wire: Wire, device: torch.device) -> RingOrGather:
        return RingOrGather(self.placement, wire.rank, wire, device, range(wire.size), self.inner)


class RingOrGather:
    """The ring; for layers with a window, whose queries see few rows of others, these are gathered at once."""

    def __init__(
        self,
        placement: Placement,
        rank: int,
        wire: Wire,
        device: torch.device,
        members: Sequence[int],
        inner: int | None,
    ) -> None:
        self._ring = RingAttention.of(placement, rank, wire, device, members=members, inner=inner)
        self._gather = WindowedGather(placement, rank, wire, device, members)

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
        if window is not None:
            return self._gather(q_1NTH, k_1KTH, v_1KTH, kernels=kernels, scale=scale, window=window)
        assert kernels.partial is not None, "a backend without it is refused before"
        return self._ring(q_1NTH, k_1KTH, v_1KTH, kernels.partial, scale)
