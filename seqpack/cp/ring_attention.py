"""One rank's part of ring attention: step by step, forward and backward, with results merged by their log-sum-exps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqpack.attention.contract import PartialAttention
from seqpack.cp.exchange import Swap, Wire, add_rows
from seqpack.cp.kernels import Call, heads_first, keys_and_values, pick, tokens_first
from seqpack.cp.plan import Placement
from seqpack.cp.rotation import lent, own_keys, partner, visits


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Rows that go out to ``to``, ``num_rows`` that come in from ``source``, and what is computed on them."""

    to: int
    source: int
    send_rows: Tensor
    num_rows: int
    call: Call


@dataclass(frozen=True, slots=True, eq=False)
class RingAttention:
    """One rank's steps; the first is on its own rows, covers all its queries, and is the only causal one."""

    wire: Wire
    own: Call
    steps: list[Step]

    @classmethod
    def of(
        cls,
        placement: Placement,
        rank: int,
        wire: Wire,
        device: torch.device,
        *,
        members: Sequence[int],
        inner: int | None = None,
    ) -> RingAttention:
        """``members[i]`` is the number of the placement's rank i on the wire; ``inner`` is that of a double ring."""
        size, mine, runs = placement.size, placement.rows[rank], placement.runs[rank]
        own = Call.of(device, (runs.at, runs.lengths), own_keys(placement, rank), (len(mine), len(mine)))
        steps = []
        for step in visits(size, inner or size)[1:]:
            to, source = (partner(rank, size, inner or size, step, direction) for direction in (1, -1))
            goes, comes = lent(placement, rank, to), lent(placement, source, rank)
            queries = runs.at[comes.run], runs.lengths[comes.run]
            call = Call.of(device, queries, (comes.start, comes.length), (len(mine), len(comes.rows)))
            rows = torch.from_numpy(goes.rows).to(device)
            steps.append(Step(members[to], members[source], rows, len(comes.rows), call))
        return cls(wire, own, steps)

    def __call__(
        self, q_1NTH: Tensor, k_1KTH: Tensor, v_1KTH: Tensor, kernel: PartialAttention, scale: float
    ) -> Tensor:
        """Output ``[T, N, H]``."""
        out_TNH: Tensor = _Ring.apply(  # type: ignore[no-untyped-call]
            tokens_first(q_1NTH), keys_and_values(k_1KTH, v_1KTH), self, kernel, scale
        )
        return out_TNH

    def borrow(self, kv_TXH: Tensor, number: int) -> Swap | None:
        """Start the exchange of step ``number``, if there is one."""
        if number >= len(self.steps):
            return None
        step = self.steps[number]
        return self.wire.swap(kv_TXH.index_select(0, step.send_rows), step.to, step.num_rows, step.source)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_TNH: Tensor, kv_TXH: Tensor, ring: RingAttention, kernel: PartialAttention, scale: float
    ) -> Tensor:
        under_way = ring.borrow(kv_TXH, 0)
        wide = torch.promote_types(q_TNH.dtype, torch.float32)
        out_TNH, lse_TN = q_TNH.new_zeros(q_TNH.shape, dtype=wide), q_TNH.new_zeros(q_TNH.shape[:2], dtype=wide)
        if not ring.own.empty:
            own = _forward(ring.own, q_TNH, kv_TXH, kernel, scale, causal=True)
            # Copies, as results are merged in place: recomputation may keep what a kernel gave.
            out_TNH, lse_TN = own[0].to(wide, copy=True), own[1].to(wide, copy=True)
        for number, step in enumerate(ring.steps):
            assert under_way is not None
            kv_SXH = under_way.wait()
            under_way = ring.borrow(kv_TXH, number + 1)  # moves while this step computes
            if not step.call.empty:
                part = _forward(step.call, q_TNH, kv_SXH, kernel, scale, causal=False)
                _merge(out_TNH, lse_TN, *part, step.call.queries)
        out_TNH = out_TNH.to(q_TNH.dtype)
        ctx.save_for_backward(q_TNH, kv_TXH, out_TNH, lse_TN)
        ctx.ring, ctx.kernel, ctx.scale = ring, kernel, scale
        return out_TNH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_TNH, kv_TXH, out_TNH, lse_TN = ctx.saved_tensors
        ring: RingAttention = ctx.ring
        given = (grads[0], out_TNH, lse_TN)
        settings = (ctx.kernel, ctx.scale)
        under_way = ring.borrow(kv_TXH, 0)
        grad_q, grad_kv = (torch.zeros_like(x, dtype=lse_TN.dtype) for x in (q_TNH, kv_TXH))
        if not ring.own.empty:
            _backward(ring.own, q_TNH, kv_TXH, given, settings, grad_q, grad_kv, causal=True)
        homeward = []
        for number, step in enumerate(ring.steps):
            assert under_way is not None
            kv_SXH = under_way.wait()
            under_way = ring.borrow(kv_TXH, number + 1)
            grad_borrowed = torch.zeros_like(kv_SXH, dtype=lse_TN.dtype)
            if not step.call.empty:
                _backward(step.call, q_TNH, kv_SXH, given, settings, grad_q, grad_borrowed, causal=False)
            returned = grad_borrowed.to(kv_TXH.dtype)
            homeward.append(ring.wire.swap(returned, step.source, len(step.send_rows), step.to))
        for step, swap in zip(ring.steps, homeward, strict=True):
            grad_kv += add_rows(swap.wait().to(grad_kv.dtype), step.send_rows, grad_kv.shape)
        return grad_q.to(q_TNH.dtype), grad_kv.to(kv_TXH.dtype), None, None, None


def _forward(
    call: Call, q_TNH: Tensor, kv_SXH: Tensor, kernel: PartialAttention, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Output ``[queries, N, H]`` and log-sum-exp ``[queries, N]`` over these keys."""
    q, k, v = call.take(q_TNH, kv_SXH)
    out, lse = kernel.forward(q, k, v, cu_q=call.cu_q, cu_k=call.cu_k, scale=scale, causal=causal)
    return tokens_first(out), lse[0].t()


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor, queries: Tensor | None) -> None:
    """Make results over some keys those over a part's keys too, in place, for the rows of ``queries``."""
    before, lse_before = pick(out, queries), pick(lse, queries)
    both = torch.logaddexp(lse_before, part_lse)
    merged = before * (lse_before - both).exp()[..., None] + part.to(out.dtype) * (part_lse - both).exp()[..., None]
    for total, values in ((out, merged), (lse, both)):
        if queries is None:
            total.copy_(values)
        else:
            total.index_copy_(0, queries, values)


def _backward(
    call: Call,
    q_TNH: Tensor,
    kv_SXH: Tensor,
    given: tuple[Tensor, Tensor, Tensor],
    settings: tuple[PartialAttention, float],
    grad_q: Tensor,
    grad_kv: Tensor,
    *,
    causal: bool,
) -> None:
    """Add what these keys contribute to the gradients; ``given`` are those of the output, the output and its lse."""
    (kernel, scale), (grad, out, lse) = settings, (pick(x, call.queries) for x in given)
    found = kernel.backward(
        heads_first(grad.contiguous()),
        *call.take(q_TNH, kv_SXH),
        heads_first(out),
        lse.t()[None].contiguous(),
        cu_q=call.cu_q,
        cu_k=call.cu_k,
        scale=scale,
        causal=causal,
    )
    query_part, *key_parts = (tokens_first(x).to(grad_q.dtype) for x in found)
    for total, part, index in ((grad_q, query_part, call.queries), (grad_kv, torch.cat(key_parts, 1), call.keys)):
        if index is None:
            total += part
        else:
            total.index_add_(0, index, part)
