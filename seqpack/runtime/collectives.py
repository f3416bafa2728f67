"""Exchanges between ranks that gradients flow through: each is answered by another one on the way back.

Letters: T tokens of all ranks of the group, t of this one, D channels. Tokens are cut like ``torch.chunk`` cuts: into
runs of ceil(T / ranks), the last of which may be shorter or empty. gloo and HCCL exchange equal pieces only, so those
are filled up on the wire and cut off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

# Renamed in torch 2.13, where the older names warn.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def own_run(total: int, group: dist.ProcessGroup) -> slice:
    """Which of ``total`` tokens this rank holds."""
    length = -(-total // dist.get_world_size(group))
    start = min(dist.get_rank(group) * length, total)
    return slice(start, min(start + length, total))


def gather_tokens(x_1tD: torch.Tensor, total: int, group: dist.ProcessGroup) -> torch.Tensor:
    """``[1, t, D]`` of every rank -> ``[1, T, D]`` on each; gradients are summed and cut."""
    gathered: torch.Tensor = _GatherTokens.apply(x_1tD, total, group)  # type: ignore[no-untyped-call]
    return gathered


def sum_and_cut_tokens(x_1TD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Parts of a sum ``[1, T, D]`` on every rank -> this rank's tokens of the sum, ``[1, t, D]``."""
    own: torch.Tensor = _SumAndCutTokens.apply(x_1TD, group)  # type: ignore[no-untyped-call]
    return own


def exchange_rows(
    x_SD: torch.Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
) -> torch.Tensor:
    """All to all: ``sent[i]`` rows go to rank i, ``received[i]`` come from it, in the order of ranks."""
    rows: torch.Tensor = _ExchangeRows.apply(x_SD, list(sent), list(received), group)  # type: ignore[no-untyped-call]
    return rows


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_1tD: torch.Tensor, total: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _gather(x_1tD, total, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _sum_and_cut(grads[0], ctx.group), None, None


class _SumAndCutTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_1TD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.total, ctx.group = x_1TD.shape[1], group
        return _sum_and_cut(x_1TD, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _gather(grads[0], ctx.total, ctx.group), None


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_SD: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchange(x_SD, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _exchange(grads[0], ctx.received, ctx.sent, ctx.group), None, None, None


def _gather(x_1tD: torch.Tensor, total: int, group: dist.ProcessGroup) -> torch.Tensor:
    size = dist.get_world_size(group)
    own = _filled(x_1tD[0], -(-total // size))
    gathered = own.new_empty(size * len(own), *own.shape[1:])
    _all_gather(gathered, own, group=group)
    return gathered[None, :total]


def _sum_and_cut(x_1TD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    total, size = x_1TD.shape[1], dist.get_world_size(group)
    length = -(-total // size)
    parts = _filled(x_1TD[0], size * length)
    own = parts.new_empty(length, *parts.shape[1:])
    _reduce_scatter(own, parts, group=group)
    run = own_run(total, group)
    return own[None, : run.stop - run.start]


def _exchange(x_SD: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    rows = x_SD.new_empty(sum(received), *x_SD.shape[1:])
    dist.all_to_all_single(rows, x_SD.contiguous(), received, sent, group=group)
    return rows


def _filled(x_tD: torch.Tensor, length: int) -> torch.Tensor:
    """The rows and as many zeros as ``length`` asks for, contiguous."""
    missing = length - len(x_tD)
    return x_tD.contiguous() if not missing else torch.cat([x_tD, x_tD.new_zeros(missing, *x_tD.shape[1:])])
