"""Algorithms of context parallelism against each other: one layer of attention, forward and backward, on 4 CPU ranks.

    python -m tests.benchmarks.bench_context_parallel                  # four processes of this machine
    python -m tests.benchmarks.bench_context_parallel --megabits 200   # two hosts of two, that slow a link between them

All algorithms compute the same rows, in turns, and each figure is the best of several rounds, because machines are
noisy; quote the ratios. FLOPs are those that are useful: 4 a channel for each query and key that meet, times 3.5 with
the backward pass. Hosts are network namespaces, which takes the right to make them.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from seqpack.attention.cpu import CpuPartial, cpu_flash_attention
from seqpack.cp.algorithms import ContextSettings, Planner
from seqpack.cp.cost import RATES, AttentionShape, Rates
from seqpack.cp.exchange import Wire
from seqpack.cp.kernels import Kernels
from tests import namespaces
from tests.cp.cases import document_mix

RANKS, HOSTS = 4, 2
SHAPE = AttentionShape(query_heads=8, key_heads=2, head_size=64, element_bytes=4)
MIXES = ("instructions", "pretraining", "long mix", "one long")
ALGORITHMS = ("ring", "ulysses", "hybrid", "kvallgather", "planned", "headdoc", "auto")
KERNELS = Kernels(cpu_flash_attention, CpuPartial())


def measure(algorithm: str, wire: Wire, rates: Rates, rows: list[np.ndarray]) -> tuple[float, int]:
    """Seconds until the last rank is done with all rows, and bytes that all ranks have sent."""
    planner = Planner(ContextSettings(RANKS, algorithm), SHAPE, rates)
    work, sent = [], wire.traffic.sent
    for cu_seqlens in rows:
        plan = planner.plan(cu_seqlens)
        held = len(plan.placement.rows[wire.rank])
        shapes = (SHAPE.query_heads, SHAPE.key_heads, SHAPE.key_heads)
        tensors = [torch.randn(1, held, heads, SHAPE.head_size).transpose(1, 2).requires_grad_() for heads in shapes]
        work.append((plan.bind(wire, torch.device("cpu")), tensors))
    dist.barrier()
    started = time.perf_counter()
    for attend, tensors in work:
        out = attend(*tensors, kernels=KERNELS, scale=0.1, window=None)
        torch.autograd.grad(out, tensors, torch.ones_like(out))
    dist.barrier()
    seconds = time.perf_counter() - started
    total = torch.tensor([wire.traffic.sent - sent])
    dist.all_reduce(total)
    return seconds, int(total) * SHAPE.element_bytes


def work_as_rank(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    wire, rates = Wire.of(), RATES["cpu"]
    if arguments.megabits is not None:
        rates = replace(rates, link=arguments.megabits * 1e6 / 8)
    for algorithm in ALGORITHMS:  # connections are made when they are first used
        measure(algorithm, wire, rates, [document_mix("one long", 256, np.random.default_rng(0))])
    for mix in MIXES:
        rng = np.random.default_rng(0)
        rows = [document_mix(mix, arguments.seq_length, rng) for _ in range(arguments.rows)]
        lengths = np.concatenate([np.diff(row) for row in rows]).astype(np.int64)
        flops = 3.5 * 4 * SHAPE.query_heads * SHAPE.head_size * float((lengths * (lengths + 1) // 2).sum())
        best: dict[str, tuple[float, int]] = {}
        for _ in range(arguments.rounds):
            for algorithm in ALGORITHMS:
                best[algorithm] = min(best.get(algorithm, (float("inf"), 0)), measure(algorithm, wire, rates, rows))
        if wire.rank == 0:
            print(f"\n{mix}: {len(lengths)} documents in {len(rows)} rows, {flops / 1e9:,.1f} useful GFLOP")
            for algorithm, (seconds, sent) in best.items():
                print(
                    f"  {algorithm:12s} {sent / 1e6:9,.2f} MB sent {seconds * 1e3:9,.0f} ms "
                    f"{flops / seconds / 1e9:7.2f} GFLOP/s  ring takes {best['ring'][0] / seconds:5.2f}x, "
                    f"ulysses {best['ulysses'][0] / seconds:5.2f}x",
                    flush=True,
                )
    dist.barrier()
    dist.destroy_process_group()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seq-length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabits", type=int, help="two hosts, and what each of them sends in a second")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        work_as_rank(arguments)
        return
    with ExitStack() as stack:
        prefixes: list[list[str]] = [[]] * RANKS
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(RANKS)}
        if arguments.megabits is not None:
            names = stack.enter_context(namespaces.hosts(HOSTS, megabits=arguments.megabits))
            prefixes = [["ip", "netns", "exec", name] for name in names for _ in range(RANKS // HOSTS)]
            common |= {"MASTER_ADDR": f"{namespaces.ADDRESS}1", "GLOO_SOCKET_IFNAME": "eth0"}
        command = [sys.executable, "-m", "tests.benchmarks.bench_context_parallel", *sys.argv[1:]]
        ranks = [
            subprocess.Popen([*prefix, *command], env={**os.environ, **common, "RANK": str(rank)})
            for rank, prefix in enumerate(prefixes)
        ]
        codes = [rank.wait() for rank in ranks]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
