"""What travels between the ranks of a context-parallel group, counted, and with gradients that travel back.

Sizes are never sent: both sides know them from the plan, and a message of no rows is left out on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from seqpack.core.errors import DistributedError


@dataclass(slots=True)
class Traffic:
    """Numbers that this rank has sent to and received from others, a vector of one head counting its size."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """This rank's way to the ``size`` others that share its rows; ``group`` None stands for all processes."""

    rank: int
    size: int
    group: Any = None
    traffic: Traffic = field(default_factory=Traffic)

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> Wire:
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> tuple[Tensor, Any]:
        """Start to send ``send[r]`` of the rows to each rank r, in their order; what arrives, and what to wait for."""
        arrives = rows.new_empty((sum(receive), *rows.shape[1:]))
        self._count(rows, sum(send) - send[self.rank], sum(receive) - receive[self.rank])
        work = dist.all_to_all_single(arrives, rows, list(receive), list(send), group=self.group, async_op=True)
        return arrives, work

    def swap(self, rows: Tensor, to: int, num_rows: int, source: int) -> Swap:
        """Start to send ``rows`` to one rank and to receive ``num_rows`` like them from another."""
        arrives = rows.new_empty((num_rows, *rows.shape[1:]))
        self._count(rows, len(rows), num_rows)
        messages = []
        if len(rows):
            messages.append(dist.P2POp(dist.isend, rows, self._number(to), self.group))
        if num_rows:
            messages.append(dist.P2POp(dist.irecv, arrives, self._number(source), self.group))
        return Swap(arrives, rows, dist.batch_isend_irecv(messages) if messages else [])

    def sum(self, values: Tensor) -> Tensor:
        """Added up over the ranks, without a gradient."""
        total = values.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def check_same(self, digest: bytes, device: torch.device) -> None:
        """DistributedError SP604 unless all ranks have the same eight bytes: sizes that differ would pass as data."""
        mine = torch.tensor([int.from_bytes(digest, "little", signed=True)], device=device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self.group)
        digests = torch.cat(found).tolist()
        if odd := [self._number(rank) for rank, value in enumerate(digests) if value != digests[0]]:
            raise DistributedError(
                "SP604",
                f"ranks {', '.join(map(str, odd))} have other rows or another plan for them than "
                f"rank {self._number(0)}, with which they share rows",
                help="start all ranks with the same options, data and version of seqpack",
            )

    def _number(self, rank: int) -> int:
        """The number of a rank of the group among all processes."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def _count(self, rows: Tensor, sent: int, received: int) -> None:
        width = rows.shape[1:].numel()
        self.traffic.sent += sent * width
        self.traffic.received += received * width


@dataclass(frozen=True, slots=True, eq=False)
class Swap:
    """One message each way, under way."""

    arrives: Tensor
    leaves: Tensor
    works: list[Any]

    def wait(self) -> Tensor:
        """What has arrived; what leaves is kept alive until then."""
        for work in self.works:
            work.wait()
        return self.arrives


@dataclass(slots=True, eq=False)
class Transfer:
    """Rows of one tensor on their way to all ranks: ``post`` starts it, ``wait`` ends it, both inside autograd.

    Backward, the gradients start on their way home where ``wait`` was called and have arrived where ``post`` was: what
    is computed in between overlaps in both directions.
    """

    wire: Wire
    send: Sequence[int]
    receive: Sequence[int]
    _work: Any = None
    _back: Any = None

    def post(self, rows: Tensor, index: Tensor | None = None) -> Tensor:
        """Start to send the rows, or those of ``index``; the result must go to ``wait`` and nowhere else."""
        posted: Tensor = _Post.apply(rows, index, self)  # type: ignore[no-untyped-call]
        return posted

    def wait(self, posted: Tensor) -> Tensor:
        """The rows of all ranks, in the order of the ranks."""
        arrived: Tensor = _Wait.apply(posted, self)  # type: ignore[no-untyped-call]
        return arrived


class _Post(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor | None, transfer: Transfer) -> Tensor:
        ctx.transfer, ctx.index, ctx.shape = transfer, index, rows.shape
        chosen = rows.contiguous() if index is None else rows.index_select(0, index)
        arrives, transfer._work = transfer.wire.all_to_all(chosen, transfer.send, transfer.receive)
        return arrives

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        home, work = ctx.transfer._back
        work.wait()
        ctx.transfer._back = None
        if ctx.index is None:
            return home.view(ctx.shape), None, None
        return add_rows(home, ctx.index, ctx.shape), None, None


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, posted: Tensor, transfer: Transfer) -> Tensor:
        ctx.transfer = transfer
        transfer._work.wait()
        transfer._work = None
        return posted.view_as(posted)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        transfer: Transfer = ctx.transfer
        transfer._back = transfer.wire.all_to_all(grads[0].contiguous(), transfer.receive, transfer.send)
        return grads[0], None  # of the shape autograd wants; what counts is under way


def add_rows(rows: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of ``shape`` with ``rows[i]`` added to row ``index[i]``, in at least float32: a row may be lent often."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    total = torch.zeros(tuple(shape), dtype=wide, device=rows.device)
    return total.index_add_(0, index, rows.to(wide)).to(rows.dtype)
