"""``ulysses``: ranks follow each other along the row; for attention, each gets all rows of some of the heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seqpack.cp.cost import BACKWARD, AttentionShape, Price, Rates, by_heads, causal_pairs
from seqpack.cp.heads import HeadExchange
from seqpack.cp.kernels import Kernels, tokens_first
from seqpack.cp.placements import contiguous
from seqpack.cp.plan import Placement, head_shares

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from seqpack.cp.exchange import Wire


@dataclass(frozen=True, slots=True, eq=False)
class UlyssesPlan:
    """Rows by heads; work is even where query heads divide among the ranks."""

    placement: Placement
    name: str = "ulysses"

    def digest(self) -> bytes:
        return self.placement.digest(self.name)

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        placement = self.placement
        shares = head_shares(shape.query_heads, shape.key_heads, placement.size)
        heads = np.array([len(share.queries) for share in shares])
        inputs, outputs = (x * shape.head_size for x in by_heads(_num_rows(placement), shares))
        lengths = np.diff(placement.cu_seqlens).astype(np.int64)
        exact = causal_pairs(lengths, lengths).sum() * heads / shape.query_heads
        executed = causal_pairs(lengths, lengths, rates.tile).sum() * heads / shape.query_heads
        moved = rates.travel(inputs, shape, placement.size - 1) + rates.travel(outputs, shape, placement.size - 1)
        seconds = (1 + BACKWARD) * rates.seconds(executed, shape) + moved
        return Price(tuple((inputs + outputs).tolist()), tuple(exact.tolist()), float(seconds.max()))

    def bind(self, wire: Wire, device: torch.device) -> UlyssesAttention:
        exchange = HeadExchange(wire, range(wire.size), wire.rank, _num_rows(self.placement).tolist())
        return UlyssesAttention(exchange, self.placement.cu_seqlens)


@dataclass(frozen=True, slots=True, eq=False)
class UlyssesAttention:
    """One rank's part."""

    exchange: HeadExchange
    cu_seqlens: NDArray[np.int32]

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
        return under_way.attend(kernels.whole, self.cu_seqlens, scale, window)


def ulysses(cu_seqlens: NDArray[np.int32], size: int) -> UlyssesPlan:
    """The plan of the ``size`` ranks for one batch."""
    return UlyssesPlan(contiguous(cu_seqlens, size))


def _num_rows(placement: Placement) -> NDArray[np.int64]:
    return np.array([len(rows) for rows in placement.rows], np.int64)
