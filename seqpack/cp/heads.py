"""Rows against heads: each rank gives away rows of the heads of others, and gets all rows of its own heads.

Query heads are dealt to ranks in order, as evenly as they go. A rank gets the key heads that its query heads share,
once each: with fewer key heads than ranks, one goes to several ranks, and is not repeated for every query head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqpack.cp.exchange import Transfer, Wire
from seqpack.cp.plan import HeadShare, head_shares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.attention.contract import VarlenAttention


@lru_cache
def _sent_heads(num_query: int, num_key: int, size: int, device: torch.device) -> Tensor:
    """Which of all query, key and value heads go to rank 0, 1, ..., one after the other."""
    order: list[int] = []
    for share in head_shares(num_query, num_key, size):
        order += share.queries
        order += (num_query + key for key in share.keys)
        order += (num_query + num_key + key for key in share.keys)
    return torch.tensor(order, device=device)


@dataclass(frozen=True, slots=True, eq=False)
class HeadExchange:
    """The exchange among ``members``, numbers on the wire, of which ``place`` is this rank's.

    Member i holds ``num_rows[i]`` of the rows, which are in the order of the members.
    """

    wire: Wire
    members: Sequence[int]
    place: int
    num_rows: Sequence[int]

    def start(self, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> HeadsOnTheWay:
        """Send the rows of other ranks' heads."""
        num_query, num_key = q_TNH.shape[1], k_TKH.shape[1]
        shares = head_shares(num_query, num_key, len(self.members))
        all_XTH = torch.cat([q_TNH, k_TKH, v_TKH], dim=1).transpose(0, 1)
        sent_XTH = all_XTH.index_select(0, _sent_heads(num_query, num_key, len(self.members), all_XTH.device))
        row, mine = q_TNH.shape[2], shares[self.place].num_sent
        transfer = Transfer(
            self.wire,
            self._on_wire([share.num_sent * len(q_TNH) * row for share in shares]),
            self._on_wire([mine * count * row for count in self.num_rows]),
        )
        return HeadsOnTheWay(self, shares, num_query // num_key, row, transfer, transfer.post(sent_XTH.flatten()))

    def give_back(self, out_1NTH: Tensor, shares: Sequence[HeadShare]) -> Tensor:
        """Outputs of this rank's heads for all rows -> those of all heads for its own rows, ``[T, N, H]``."""
        out_NTH, size, mine = out_1NTH[0], out_1NTH.shape[3], self.num_rows[self.place]
        heads = [len(share.queries) for share in shares]
        transfer = Transfer(
            self.wire,
            self._on_wire([heads[self.place] * count * size for count in self.num_rows]),
            self._on_wire([count * mine * size for count in heads]),
        )
        pieces = [piece.flatten() for piece in torch.split(out_NTH, list(self.num_rows), dim=1)]
        arrived = transfer.wait(transfer.post(torch.cat(pieces)))
        return arrived.view(sum(heads), mine, size).transpose(0, 1)

    def _on_wire(self, counts: Sequence[int]) -> list[int]:
        on_wire = [0] * self.wire.size
        for member, count in zip(self.members, counts, strict=True):
            on_wire[member] = count
        return on_wire


@dataclass(frozen=True, slots=True, eq=False)
class HeadsOnTheWay:
    """Rows of this rank's heads, under way; ``group`` query heads share a key head, a vector has ``size`` numbers."""

    exchange: HeadExchange
    shares: Sequence[HeadShare]
    group: int
    size: int
    transfer: Transfer
    posted: Tensor = field(repr=False)

    def arrive(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all rows for this rank's heads, ``[1, heads, T, H]``."""
        share, num_rows = self.shares[self.exchange.place], self.exchange.num_rows
        arrived = self.transfer.wait(self.posted)
        pieces = torch.split(arrived, [share.num_sent * count * self.size for count in num_rows])
        blocks = [piece.view(share.num_sent, -1, self.size) for piece in pieces if piece.numel()]
        all_XTH = torch.cat(blocks, dim=1) if blocks else pieces[0].view(share.num_sent, sum(num_rows), self.size)
        q, k, v = torch.split(all_XTH[None], [len(share.queries), len(share.keys), len(share.keys)], dim=1)
        if (repeats := share.repeats(self.group)) is not None:
            index = torch.tensor(repeats, device=k.device)
            k, v = k.index_select(1, index), v.index_select(1, index)
        return q, k, v

    def attend(
        self, kernel: VarlenAttention, cu_seqlens: NDArray[np.int32], scale: float, window: int | None
    ) -> Tensor:
        """Attention of this rank's heads over all rows, and the outputs back where the rows are: ``[T, N, H]``."""
        q, k, v = self.arrive()
        if not q.numel():  # fewer heads than ranks: this one only takes part in the exchange
            return self.exchange.give_back(q, self.shares)
        out, _ = kernel(q, k, v, cu_q=cu_seqlens, cu_k=cu_seqlens, scale=scale, window=window)
        return self.exchange.give_back(out, self.shares)
