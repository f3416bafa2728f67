"""``headdoc``: whole documents stay on one rank; those that must be cut are exchanged by heads.

A document is cut if no rank has room for it, or if it is so heavy that the unevenness would cost more than its
exchange. Rows of cut documents fill the ranks up to equal numbers, and attention to them is even by construction. One
long document makes this ulysses; short ones make it data parallel, with nothing to exchange.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.cp.cost import BACKWARD, AttentionShape, Price, Rates, by_heads, causal_pairs
from seqpack.cp.heads import HeadExchange
from seqpack.cp.kernels import Call, Kernels, in_order, keys_and_values, pick, tokens_first
from seqpack.cp.plan import (
    Interval,
    Placement,
    Rows,
    bounds,
    head_shares,
    pairs,
    rows_of,
    segments_of,
    sizes,
    stretches,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seqpack.cp.exchange import Wire

EVEN = 1.02
"""Most work of a rank over the mean at which no more documents are cut."""
PATIENCE = 8
"""Further documents that are tried as cut after the last one that made it better."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadDocPlan:
    """``cut`` are the rows of documents that are exchanged by heads, ascending; rank r holds ``stored[r]`` of them."""

    placement: Placement
    cut: Rows
    stored: Rows
    name: str = "headdoc"

    def digest(self) -> bytes:
        return self.placement.digest(self.name, self.cut.tobytes())

    def is_cut(self, rank: int) -> NDArray[np.bool_]:
        """Which of a rank's runs belong to cut documents."""
        runs = self.placement.runs[rank]
        places = np.searchsorted(self.cut, runs.lo)
        cut: NDArray[np.bool_] = np.append(self.cut, -1)[places] == runs.lo
        return cut

    @property
    def cut_lengths(self) -> Rows:
        """Rows of each cut document."""
        segment = np.searchsorted(self.placement.cu_seqlens, self.cut, side="right")
        return np.unique(segment, return_counts=True)[1].astype(np.int64)

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        size = self.placement.size
        shares = head_shares(shape.query_heads, shape.key_heads, size)
        share = np.array([len(share.queries) for share in shares]) / shape.query_heads
        exact, whole = np.zeros(size), np.zeros(size)
        for rank, runs in enumerate(self.placement.runs):
            lengths = runs.lengths[~self.is_cut(rank)]
            exact[rank], whole[rank] = (causal_pairs(lengths, lengths, tile).sum() for tile in (1, rates.tile))
        cut_exact, cut = (causal_pairs(self.cut_lengths, self.cut_lengths, tile).sum() for tile in (1, rates.tile))
        inputs, outputs = (x * shape.head_size for x in by_heads(self.stored, shares))
        goes, comes = (rates.travel(x / 2, shape, size - 1) for x in (inputs, outputs))
        local, exchanged = rates.seconds(whole, shape), rates.seconds(cut * share, shape)
        forward = np.maximum(goes, local) + exchanged + comes
        backward = comes + BACKWARD * exchanged + np.maximum(goes, BACKWARD * local)
        sent = tuple((inputs + outputs).tolist())
        return Price(sent, tuple((exact + cut_exact * share).tolist()), float((forward + backward).max()))

    def bind(self, wire: Wire, device: torch.device) -> HeadDocAttention:
        runs, is_cut = self.placement.runs[wire.rank], self.is_cut(wire.rank)
        at, lengths, num_rows = runs.at[~is_cut], runs.lengths[~is_cut], len(self.placement.rows[wire.rank])
        whole = Call.of(device, (at, lengths), (at, lengths), (num_rows, num_rows))
        cut_rows = stretches(runs.at[is_cut], runs.lengths[is_cut])
        order = np.argsort(np.concatenate([stretches(at, lengths), cut_rows]))
        return HeadDocAttention(
            HeadExchange(wire, range(wire.size), wire.rank, self.stored.tolist()),
            whole,
            torch.from_numpy(cut_rows).to(device),
            bounds(self.cut_lengths),
            torch.from_numpy(order).to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class HeadDocAttention:
    """One rank's part: its ``whole`` documents, and where its rows of cut ones are, whose boundaries are ``cu_cut``."""

    exchange: HeadExchange
    whole: Call
    cut: Tensor
    cu_cut: NDArray[np.int32]
    order: Tensor

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
        """See ``Attend``; whole documents are computed while rows of cut ones travel."""
        q_TNH, kv_TXH = tokens_first(q_1NTH), keys_and_values(k_1KTH, v_1KTH)
        if len(self.cu_cut) == 1:
            return self.whole.attend(q_TNH, kv_TXH, kernels.whole, scale, window)
        under_way = self.exchange.start(*(pick(tokens_first(x), self.cut) for x in (q_1NTH, k_1KTH, v_1KTH)))
        whole = self.whole.attend(q_TNH, kv_TXH, kernels.whole, scale, window)
        cut = under_way.attend(kernels.whole, self.cu_cut, scale, window)
        return in_order([whole, cut], self.order)


def headdoc(cu_seqlens: NDArray[np.int32], size: int, *, row_pairs: float = 0.0) -> HeadDocPlan:
    """The plan of the ``size`` ranks for one batch.

    To exchange a row of a cut document costs as much as ``row_pairs`` (query, key) pairs of one rank.
    """
    documents = sorted(segments_of(cu_seqlens), key=lambda document: (document[0] - document[1], document[0]))
    room = sizes(int(cu_seqlens[-1]), size).tolist()
    must = sum(hi - lo > max(room) for lo, hi in documents)
    best = _deal(documents, must, room, row_pairs)
    found_at = must
    for num_cut in range(must + 1, len(documents) + 1):
        if best.most_work <= EVEN * best.mean_work or num_cut > found_at + PATIENCE:
            break
        deal = _deal(documents, num_cut, room, row_pairs)
        if deal.cost < best.cost:
            best, found_at = deal, num_cut
    cut = rows_of(sorted(best.cut))
    stored = np.array(room) - [sum(hi - lo for lo, hi in mine) for mine in best.whole]
    pieces = np.split(cut, np.cumsum(stored)[:-1])
    rows = tuple(
        np.sort(np.concatenate([rows_of(mine), piece])) for mine, piece in zip(best.whole, pieces, strict=True)
    )
    return HeadDocPlan(Placement(cu_seqlens, rows), cut, stored)


@dataclass(frozen=True, slots=True, eq=False)
class _Deal:
    """Documents that are cut and those whole on each rank; work in pairs, and its cost with that of the exchange."""

    cut: list[Interval]
    whole: list[list[Interval]]
    most_work: float
    mean_work: float
    cost: float


def _deal(documents: list[Interval], num_cut: int, room: list[int], row_pairs: float) -> _Deal:
    """The first documents are cut; each other one goes to the rank with least work that has room, or is cut too."""
    size, left = len(room), list(room)
    work = [0] * size
    cut, whole = list(documents[:num_cut]), [[] for _ in room]  # type: tuple[list[Interval], list[list[Interval]]]
    for lo, hi in documents[num_cut:]:
        fit = [rank for rank in range(size) if left[rank] >= hi - lo]
        if not fit:
            cut.append((lo, hi))
            continue
        rank = min(fit, key=lambda rank: (work[rank], left[rank] - room[rank], rank))
        whole[rank].append((lo, hi))
        left[rank] -= hi - lo
        work[rank] += pairs(hi - lo)
    shared = sum(pairs(hi - lo) for lo, hi in cut) / size
    most, mean = max(work) + shared, sum(work) / size + shared
    return _Deal(cut, whole, most, mean, most + row_pairs * sum(hi - lo for lo, hi in cut) / size)
