"""Exchanges and what they are on the way back, against the sums and pieces written out."""

from __future__ import annotations

import torch
import torch.distributed as dist

from seqpack.runtime.collectives import exchange_rows, gather_tokens, own_run, sum_and_cut_tokens
from seqpack.runtime.ranks import Ranks
from tests.distributed import run_ranks

TOTALS = (1, 2, 3, 4, 7, 9)


def exchange(ranks: Ranks) -> list[bool]:
    group = dist.group.WORLD
    assert group is not None
    checks = []
    for total in TOTALS:
        whole = torch.randn(1, total, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(total))
        run = own_run(total, group)
        own = whole[:, run].clone().requires_grad_()
        gathered = gather_tokens(own, total, group)
        checks.append(torch.equal(gathered, whole))
        (gathered * (ranks.rank + 1)).sum().backward()  # gradients of ranks are 1, 2, 3
        checks.append(own.grad is not None and bool((own.grad == 6).all()))
        part = (whole * (ranks.rank + 1)).requires_grad_()
        added = sum_and_cut_tokens(part, group)
        checks.append(torch.allclose(added, whole[:, run] * 6, atol=1e-14))
        (added * (ranks.rank + 1)).sum().backward()
        holders = torch.cat(
            [torch.full((len(range(*_run(total, rank).indices(total))),), rank + 1.0) for rank in range(3)]
        )
        checks.append(part.grad is not None and torch.equal(part.grad[0, :, 0], holders.double()))
    # Rank r sends r + 1 rows to the next rank, and none to itself or to the one before.
    rows = torch.full((ranks.rank + 1, 2), float(ranks.rank), requires_grad=True)
    after, before = (ranks.rank + 1) % 3, (ranks.rank + 2) % 3
    sent, received = (
        [count if rank == other else 0 for rank in range(3)]
        for other, count in ((after, ranks.rank + 1), (before, before + 1))
    )
    arrived = exchange_rows(rows, sent, received, group)
    checks.append(arrived.shape == (before + 1, 2) and bool((arrived == before).all()))
    (arrived * (ranks.rank + 1)).sum().backward()
    checks.append(rows.grad is not None and bool((rows.grad == after + 1).all()))
    return checks


def _run(total: int, rank: int) -> slice:
    length = -(-total // 3)
    return slice(min(rank * length, total), min((rank + 1) * length, total))


def test_three_ranks_and_lengths_that_do_not_divide() -> None:
    for checks in run_ranks(3, exchange):
        assert len(checks) == 4 * len(TOTALS) + 2
        assert all(checks)
