"""Every algorithm against attention of one process: output, gradients, and how much travels for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist

from seqpack.attention.cpu import CpuPartial, cpu_flash_attention
from seqpack.attention.reference import ReferencePartial, reference_attention
from seqpack.core.errors import DistributedError
from seqpack.cp.exchange import Transfer, Wire
from seqpack.cp.kernels import Kernels
from seqpack.runtime.ranks import Ranks
from tests.distributed import run_ranks

from .cases import ALGORITHMS, DOCUMENTS, HEADS, RATES_OF_TESTS, planner, row

CPU = torch.device("cpu")
FLASH = Kernels(cpu_flash_attention, CpuPartial())
DENSE = Kernels(reference_attention, ReferencePartial())
SCALE = 0.3
EXACT = 1e-11
HOUR = 3600.0


@dataclass(frozen=True)
class Inputs:
    """q, k, v and the gradient of the output, whole; what attention of one process makes of them."""

    tensors: tuple[torch.Tensor, ...]
    grad: torch.Tensor
    output: torch.Tensor
    grads: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, cu: np.ndarray, heads: tuple[int, int], window: int | None) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        made = [
            torch.randn(1, int(cu[-1]), n, 6, generator=generator, dtype=torch.float64).transpose(1, 2)
            for n in (heads[0], heads[1], heads[1], heads[0])
        ]
        tensors = tuple(x.detach().clone().requires_grad_() for x in made[:3])
        output, _ = cpu_flash_attention(*tensors, cu_q=cu, cu_k=cu, scale=SCALE, window=window)
        return cls(tensors, made[3], output.detach(), torch.autograd.grad(output, tensors, made[3]))


def compare(wire: Wire, cu: np.ndarray, inputs: Inputs, plans: object, window: int | None, kernels: Kernels) -> str:
    """What differs from one process, or from the predicted traffic; empty if nothing does."""
    plan = plans.plan(cu)  # type: ignore[attr-defined]
    rows = torch.from_numpy(plan.placement.rows[wire.rank])
    mine = [x.detach()[:, :, rows].requires_grad_() for x in inputs.tensors]
    sent = wire.traffic.sent
    output = plan.bind(wire, CPU)(*mine, kernels=kernels, scale=SCALE, window=window)
    grads = torch.autograd.grad(output, mine, inputs.grad[0].transpose(0, 1)[rows])
    sent = wire.traffic.sent - sent
    expected = (inputs.output[0].transpose(0, 1)[rows], *(grad[:, :, rows] for grad in inputs.grads))
    off = max(
        ((a - b).abs().max().item() for a, b in zip((output, *grads), expected, strict=True) if a.numel()), default=0
    )
    if not off < EXACT:
        return f"off by {off:.1e}"
    wanted = plan.price(plans.shape, RATES_OF_TESTS).sent[wire.rank]  # type: ignore[attr-defined]
    return f"sent {sent} numbers, priced {wanted}" if window is None and sent != wanted else ""


def failures(
    ranks: Ranks, names: Sequence[str], heads: Sequence[tuple[int, int]], windows: Sequence[int | None]
) -> list[str]:
    """Cases that differ on this rank."""
    if ranks.size == 1 and not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wire, found = Wire.of(), []
    for name in names:
        cu = row(name)
        for number in heads:
            for window in windows:
                inputs = Inputs.of(cu, number, window)
                for algorithm, placement in ALGORITHMS:
                    plans = planner(ranks.size, algorithm, placement, number)
                    if what := compare(wire, cu, inputs, plans, window, FLASH):
                        found.append(f"{name}, heads {number}, window {window}, {algorithm} {placement}: {what}")
    if ranks.size == 1:
        dist.destroy_process_group()
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_every_algorithm_equals_one_process(size: int) -> None:
    names = ["mixed", "one long", "all short", "empty ranks"]
    assert run_ranks(size, failures, names, [(4, 2), (6, 3)], [None, 5]) == [[]] * size


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_every_algorithm_equals_one_process_on_everything(size: int) -> None:
    assert run_ranks(size, failures, list(DOCUMENTS), HEADS, [None, 5], seconds=HOUR) == [[]] * size


def special(ranks: Ranks) -> list[str]:
    """Double rings, degrees that are asked for, and dense masks."""
    wire, cu = Wire.of(), row("mixed")
    inputs = Inputs.of(cu, (4, 2), None)
    asked = [
        ("ring", "zigzag", {"inner_ring": 2}, FLASH),
        ("ring", "contiguous", {"inner_ring": 1}, FLASH),
        ("ring", "zigzag", {}, DENSE),
        ("hybrid", "zigzag", {"ulysses_degree": 2}, FLASH),
        ("hybrid", "per-document", {"ulysses_degree": 2}, DENSE),
        ("hybrid", "zigzag", {"ulysses_degree": 4}, FLASH),
        ("hybrid", "zigzag", {"ulysses_degree": 1, "inner_ring": 2}, FLASH),
        ("headdoc", "zigzag", {}, DENSE),
        ("planned", "zigzag", {}, DENSE),
    ]
    found = []
    for algorithm, placement, settings, kernels in asked:
        plans = planner(ranks.size, algorithm, placement, **settings)  # type: ignore[arg-type]
        if what := compare(wire, cu, inputs, plans, None, kernels):
            found.append(f"{algorithm} {placement} {settings}: {what}")
    return found


def test_double_rings_degrees_and_dense_masks() -> None:
    assert run_ranks(4, special) == [[]] * 4


def leaks(ranks: Ranks) -> list[str]:
    """Algorithms under which a token changes a bit outside its document, or none inside it."""
    wire, cu, found = Wire.of(), row("odd"), []
    tensors = Inputs.of(cu, (4, 2), None).tensors
    for algorithm, placement in ALGORITHMS:
        plan = planner(ranks.size, algorithm, placement).plan(cu)
        rows, attend = torch.from_numpy(plan.placement.rows[ranks.rank]), plan.bind(wire, CPU)
        for start, end in ((0, 7), (7, 68), (68, 81)):
            changed = [x.detach().clone() for x in tensors]
            for x in changed:
                x[:, :, start] += 1.0
            before, after = (
                attend(*(x[:, :, rows] for x in given), kernels=FLASH, scale=SCALE, window=None)
                for given in (tensors, changed)
            )
            inside = (rows >= start) & (rows < end)
            same = (before == after).flatten(1).all(1)
            if not same[~inside].all() or same[inside].any():
                found.append(f"{algorithm} {placement}: document {start}:{end}")
    return found


def test_documents_do_not_see_each_other_to_the_last_bit() -> None:
    assert run_ranks(3, leaks) == [[]] * 3


def narrow(ranks: Ranks) -> float:
    """How far bfloat16 is from float64 at most."""
    wire, cu, off = Wire.of(), row("mixed"), 0.0
    inputs = Inputs.of(cu, (4, 2), None)
    for algorithm in ("ring", "planned", "headdoc"):
        plan = planner(ranks.size, algorithm).plan(cu)
        rows = torch.from_numpy(plan.placement.rows[wire.rank])
        mine = [x.detach()[:, :, rows].bfloat16().requires_grad_() for x in inputs.tensors]
        output = plan.bind(wire, CPU)(*mine, kernels=FLASH, scale=SCALE, window=None)
        assert output.dtype is torch.bfloat16
        grads = torch.autograd.grad(output, mine, inputs.grad[0].transpose(0, 1)[rows].bfloat16())
        assert all(grad.dtype is torch.bfloat16 for grad in grads)
        for ours, wanted in zip(grads, inputs.grads, strict=True):
            off = max(off, ((ours - wanted[:, :, rows]).abs() / wanted[:, :, rows].abs().clamp(min=1.0)).max().item())
    return off


def test_bfloat16_stays_bfloat16() -> None:
    assert max(run_ranks(2, narrow)) < 0.1


def disagree(ranks: Ranks) -> str:
    wire = Wire.of()
    wire.check_same(b"12345678", CPU)
    try:
        wire.check_same(b"12345678" if ranks.rank != 1 else b"1234567\xff", CPU)
    except DistributedError as error:
        return f"{error.code}: {error.message}"
    return ""


def test_another_plan_is_an_error() -> None:
    assert all(found.startswith("SP604: ranks 1 have other rows or another plan") for found in run_ranks(3, disagree))


def overlapping(ranks: Ranks) -> tuple[list[float], list[float]]:
    """Each rank sends its number times 1, 10, 100 to ranks 0, 1, 2; the gradient of rank r is r + 1."""
    rows = torch.tensor([[1.0], [10.0], [100.0]]) * (ranks.rank + 1)
    rows.requires_grad_()
    transfer = Transfer(Wire.of(), [1, 1, 1], [1, 1, 1])
    arrived = transfer.wait(transfer.post(rows, torch.tensor([0, 1, 2])))
    (grad,) = torch.autograd.grad(arrived, rows, torch.full((3, 1), ranks.rank + 1.0))
    return arrived[:, 0].tolist(), grad[:, 0].tolist()


def test_a_transfer_goes_both_ways() -> None:
    for rank, (arrived, grad) in enumerate(run_ranks(3, overlapping)):
        assert arrived == [10.0**rank, 2 * 10.0**rank, 3 * 10.0**rank]
        assert grad == [1.0, 2.0, 3.0]
