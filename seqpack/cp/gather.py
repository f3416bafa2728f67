"""Keys and values are gathered first, then each rank attends to all its queries at once: no results to merge.

What is gathered is either what some query needs or everything. Queries that need nothing from other ranks are computed
while the rest is on its way. Works with every attention backend, and with windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqpack.cp.cost import AttentionShape, Price, Rates, causal_pairs, gathered
from seqpack.cp.exchange import Transfer, Wire
from seqpack.cp.kernels import Call, in_order, keys_and_values, tokens_first
from seqpack.cp.plan import Placement, Rows, stretches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.attention.contract import VarlenAttention
    from seqpack.cp.kernels import Kernels


def needed(placement: Placement, rank: int, window: int | None = None) -> NDArray[np.bool_]:
    """Which rows of the batch a rank must see, its own among them; bool ``[T]``."""
    runs = placement.runs[rank]
    edges = np.zeros(placement.num_rows + 1, np.int64)
    np.add.at(edges, runs.first_seen(window), 1)
    np.add.at(edges, runs.hi, -1)
    return np.cumsum(edges[:-1]) > 0


def borrowed(placement: Placement, *, everything: bool = False, window: int | None = None) -> NDArray[np.int64]:
    """How many rows of rank p rank r gets, ``[r, p]``; with ``everything``, all of them."""
    size = placement.size
    if everything:
        counts = np.tile([len(rows) for rows in placement.rows], (size, 1))
    else:
        seen = (placement.holder[needed(placement, rank, window)] for rank in range(size))
        counts = np.array([np.bincount(holders, minlength=size) for holders in seen])
    np.fill_diagonal(counts, 0)
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class GatheredPlan:
    """Each rank gathers what its queries need, or ``everything``."""

    name: str
    placement: Placement
    everything: bool = False

    def digest(self) -> bytes:
        return self.placement.digest(self.name, self.everything)

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        counts = borrowed(self.placement, everything=self.everything)
        lends, gets = counts.sum(0), counts.sum(1)
        exact, near, far = (np.zeros(self.placement.size) for _ in range(3))
        for rank, runs in enumerate(self.placement.runs):
            keys, is_far = runs.hi - runs.first, far_runs(self.placement, rank)
            executed = causal_pairs(runs.lengths, keys, rates.tile)
            exact[rank] = causal_pairs(runs.lengths, keys).sum()
            near[rank], far[rank] = executed[~is_far].sum(), executed[is_far].sum()
        sent = (lends + gets) * shape.key_row
        return Price(tuple(sent.tolist()), tuple(exact.tolist()), gathered(near, far, lends, gets, shape, rates))

    def bind(self, wire: Wire, device: torch.device) -> WindowedGather:
        return WindowedGather(self.placement, wire.rank, wire, device, range(wire.size), self.everything)


class WindowedGather:
    """``GatheredAttention`` for every window that layers ask for; made when the first one does."""

    def __init__(
        self,
        placement: Placement,
        rank: int,
        wire: Wire,
        device: torch.device,
        members: Sequence[int],
        everything: bool = False,
    ) -> None:
        def make(window: int | None) -> GatheredAttention:
            return GatheredAttention.of(
                placement, rank, wire, device, members=members, everything=everything, window=window
            )

        self._of_window = cache(make)

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
        return self._of_window(window)(q_1NTH, k_1KTH, v_1KTH, kernels.whole, scale, window)


def far_runs(placement: Placement, rank: int, window: int | None = None) -> NDArray[np.bool_]:
    """Which runs of a rank see rows of others."""
    runs = placement.runs[rank]
    first = runs.first_seen(window)
    of_others = np.concatenate([[0], np.cumsum(placement.holder != rank)])
    return of_others[runs.hi] > of_others[first]


@dataclass(frozen=True, slots=True, eq=False)
class GatheredAttention:
    """What one rank sends, gets and computes. ``near`` queries see its own rows alone, ``far`` ones others too."""

    wire: Wire
    send_rows: Tensor
    send: list[int]
    receive: list[int]
    exchanges: bool
    near: Call
    far: Call
    order: Tensor | None

    @classmethod
    def of(
        cls,
        placement: Placement,
        rank: int,
        wire: Wire,
        device: torch.device,
        *,
        members: Sequence[int],
        everything: bool = False,
        window: int | None = None,
    ) -> GatheredAttention:
        """``members[i]`` is the number of the placement's rank i on the wire.

        Keys lie in a buffer of this rank's own rows and then those it gets, from rank 0, 1, ...
        """
        counts = borrowed(placement, everything=everything, window=window)
        mine, holder, runs = placement.rows[rank], placement.holder, placement.runs[rank]
        others = [other for other in range(placement.size) if other != rank]
        wants = {
            other: np.ones(len(holder), bool) if everything else needed(placement, other, window)
            for other in range(placement.size)
        }
        lent = [np.flatnonzero(wants[other][mine]) for other in others]
        buffer = np.concatenate([mine, *(np.flatnonzero(wants[rank] & (holder == other)) for other in others)])
        place = np.full(len(holder), -1)
        place[buffer] = np.arange(len(buffer))
        first, far = runs.first_seen(window), far_runs(placement, rank, window)
        near_call, far_call = (
            Call.of(
                device,
                (runs.at[of], runs.lengths[of]),
                (first[of], (runs.hi - first)[of]),
                (len(mine), num_keys),
                place,
            )
            for of, num_keys in ((~far, len(mine)), (far, len(buffer)))
        )
        return cls(
            wire,
            torch.from_numpy(np.concatenate([*lent, np.zeros(0, np.int64)])).to(device),
            _on_wire(wire, members, counts[:, rank]),
            _on_wire(wire, members, counts[rank]),
            bool(counts.any()),
            near_call,
            far_call,
            _order(runs.at, runs.lengths, far, device),
        )

    def __call__(
        self,
        q_1NTH: Tensor,
        k_1KTH: Tensor,
        v_1KTH: Tensor,
        kernel: VarlenAttention,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Output ``[T, N, H]``."""
        q_TNH, kv_TXH = tokens_first(q_1NTH), keys_and_values(k_1KTH, v_1KTH)
        if not self.exchanges:  # no rank of the group needs anything
            return self.near.attend(q_TNH, kv_TXH, kernel, scale, window)
        transfer = Transfer(self.wire, self.send, self.receive)
        posted = transfer.post(kv_TXH, self.send_rows)
        near = self.near.attend(q_TNH, kv_TXH, kernel, scale, window)
        kv_SXH = torch.cat([kv_TXH, transfer.wait(posted)])
        far = self.far.attend(q_TNH, kv_SXH, kernel, scale, window)
        return in_order([near, far], self.order)


def _on_wire(wire: Wire, members: Sequence[int], counts: NDArray[np.int64]) -> list[int]:
    on_wire = [0] * wire.size
    for member, count in zip(members, counts.tolist(), strict=True):
        on_wire[member] = count
    return on_wire


def _order(at: Rows, lengths: Rows, far: NDArray[np.bool_], device: torch.device) -> Tensor | None:
    """Where each row is after those of near runs and then those of far ones have been computed."""
    if not far.any() or far.all():
        return None
    computed = np.concatenate([stretches(at[of], lengths[of]) for of in (~far, far)])
    return torch.from_numpy(np.argsort(computed)).to(device)
