"""What attention must get right, as cases to be run on the device itself and compared with float64 on the host.

They are those by which the NPU's operator is modelled in the tests, so that a machine with an NPU can say whether the
model is right; any other attention code can run them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.attention.reference import reference_attention

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention

TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference that rounding explains, relative to the largest number of the result (to 1 if that is less)."""
RESULTS = ("output", "log-sum-exp", "dq", "dk", "dv")
SCALE = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """Segments with these numbers of queries and keys; as many keys as queries where ``num_keys`` is empty."""

    name: str
    num_queries: tuple[int, ...]
    num_keys: tuple[int, ...] = ()
    heads: int = 4
    kv_heads: int = 4
    head_size: int = 64
    window: int | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Largest differences of one case by result; nan where a number was not finite, or -inf in the wrong place."""

    case: Case
    dtype: str
    differences: dict[str, float]
    tolerance: float

    @property
    def passed(self) -> bool:
        return all(difference <= self.tolerance for difference in self.differences.values())


CASES = (
    Case("one sample", (300,)),
    Case("samples side by side", (5, 1, 370, 2, 64, 128)),
    Case("key heads that are shared", (5, 1, 37, 100), heads=6, kv_heads=2),
    Case("one key head", (5, 1, 37, 100), kv_heads=1, head_size=128),
    Case("a sample longer than the compressed mask", (7, 2100), heads=1, kv_heads=1),
    Case("a window inside samples", (5, 150, 90), window=40),
    Case("a window of one", (5, 1, 37), window=1),
    Case("a window that only some samples exceed", (5, 1, 37, 70), kv_heads=2, window=37),
    Case("a window in a sample longer than the compressed mask", (2100,), heads=1, kv_heads=1, window=1000),
    Case("more keys than queries", (5, 1, 60), (70, 1, 61), kv_heads=2),
    Case("more keys than queries, a window", (5, 1, 60), (70, 1, 61), kv_heads=2, window=9),
    Case("queries before the first key", (50, 3, 7), (20, 3, 9)),
    Case("segments without queries or keys", (0, 8, 5, 0), (6, 0, 9, 0)),
    Case("more segments than one call takes", (1, 2, 1) * 342, heads=2, kv_heads=1, head_size=16),
)


def run_cases(
    attention: VarlenAttention,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    cases: Sequence[Case] = CASES,
) -> list[CaseResult]:
    """Every case on ``device``, forward and backward."""
    return [_run(case, attention, device, dtype) for case in cases]


def _run(case: Case, attention: VarlenAttention, device: str | torch.device, dtype: torch.dtype) -> CaseResult:
    # Rounded first: both sides get the same numbers, so that only the computation differs.
    inputs = [x.to(dtype) for x in _inputs(case)]
    found = _results(case, attention, [x.to(device) for x in inputs])
    wanted = _results(case, reference_attention, [x.double() for x in inputs])
    differences = {name: _difference(ours, theirs) for name, ours, theirs in zip(RESULTS, found, wanted, strict=True)}
    return CaseResult(case, str(dtype).removeprefix("torch."), differences, TOLERANCES[dtype])


def _inputs(case: Case) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_queries, num_keys = sum(case.num_queries), sum(case.num_keys or case.num_queries)
    shapes = [(1, num_queries, case.heads, case.head_size)] + 2 * [(1, num_keys, case.kv_heads, case.head_size)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _results(case: Case, attention: VarlenAttention, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output, log-sum-exp and the three gradients, on the host."""
    q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in inputs)
    cu_q, cu_k = (
        np.array([0, *accumulate(n)], np.int32) for n in (case.num_queries, case.num_keys or case.num_queries)
    )
    out, lse = attention(q, k, v, cu_q=cu_q, cu_k=cu_k, scale=SCALE, window=case.window)
    weights = torch.linspace(-1, 1, out.shape[2], dtype=torch.float64).to(out)[:, None]
    grads = torch.autograd.grad((out * weights).sum(), (q, k, v))
    return [x.detach().cpu().double() for x in (out, lse, *grads)]


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """-inf, the log-sum-exp of a query that sees no key, must be at the same places."""
    blind = wanted.isneginf()
    if not torch.equal(blind, found.isneginf()):
        return float("nan")
    ours, theirs = found.masked_fill(blind, 0.0), wanted.masked_fill(blind, 0.0)
    scale = max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)
    return float((ours - theirs).abs().max()) / scale if theirs.numel() else 0.0
