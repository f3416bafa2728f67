"""Emulated: every algorithm of context parallelism with the NPU's attention under it; no NPU takes part."""

from __future__ import annotations

from seqpack.attention.npu import NpuAttention
from seqpack.cp.exchange import Wire
from seqpack.cp.kernels import Kernels
from seqpack.runtime.ranks import Ranks
from tests.cp.cases import ALGORITHMS, planner, row
from tests.cp.test_attention import Inputs, compare
from tests.distributed import run_ranks

from .emulator import register

HEADS = (4, 2)


def failures(ranks: Ranks, version: str, cases: list[tuple[str, int | None]]) -> list[str]:
    """What differs from one process on this rank; a case is the documents of a row, and a window."""
    library, operators = register(version, "npu_in_parallel")
    attention, wire, found = NpuAttention(operators), Wire.of(), []
    for name, window in cases:
        cu = row(name)
        inputs = Inputs.of(cu, HEADS, window)
        for algorithm, placement in ALGORITHMS:
            plans = planner(ranks.size, algorithm, placement, HEADS)
            if what := compare(wire, cu, inputs, plans, window, Kernels(attention, attention)):
                found.append(f"{name}, window {window}, {algorithm} {placement}: {what}")
    library._destroy()
    return found


def test_every_algorithm_equals_one_process() -> None:
    assert run_ranks(2, failures, "2.13.0", [("mixed", 5), ("empty ranks", None)]) == [[]] * 2


def test_with_statistics_head_by_head() -> None:
    assert run_ranks(3, failures, "2.5.1.post1", [("mixed", None)]) == [[]] * 3
