"""Packing strategies beside the packers people use now: packs, mixing, balance, speed, memory, and how they grow.

    python tests/benchmarks/bench_packing.py LENGTHS.npy [--peers PYTHON] [--quick | --huge]

LENGTHS.npy are token counts of real instructions; the data set "alpaca" draws from them. PYTHON is an interpreter of an
environment of its own that has trl, seqpacker and binpacking, or some of them; peers that it lacks are left out.
``--quick`` takes a minute or two; without it, 1 and 10 million rows are packed too (some 15 minutes); ``--huge`` adds
100 million. The last lines compare what was found with our bars.

Every run is a process of its own, which reports seconds (planning and materialising, best of three up to a million
rows, unless that takes longer than five seconds) and the growth of its memory. Measures are of what came out, computed
here, the same for all. TRL's packer is run over the whole set, on lists of nulls: its default is 1,000 rows at a time,
and moving tokens would be counted too. What a peer needs besides lengths, such as 64-bit copies, is not counted.

Growth: planning depends on the number of distinct lengths, at most the capacity, and not on rows; materialising is
linear in rows. The section "growth" shows both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("balanced", "bfd", "ffd", "exact", "optimal", "shuffle", "sequential", "wrapped", "stream")
PEERS = ("trl", "seqpacker", "seqpacker-ffs", "binpacking")
DATA = ("alpaca", "lognormal", "uniform", "half", "quarter", "triples")
QUICK = ("alpaca", "lognormal", "triples")
CAPACITIES = (2048, 8192, 32768)
TIMEOUT = {"binpacking": 40, "optimal": 300}
SECONDS = 120


def make_data(name: str, rows: int, capacity: int, real: np.ndarray) -> np.ndarray:
    """Lengths of a synthetic set, int32, the same for everybody."""
    rng = np.random.default_rng(0)
    low, high = capacity // 4, capacity // 2
    if name == "alpaca":
        made = rng.choice(real, rows)
    elif name == "lognormal":
        made = rng.lognormal(6.5, 1.1, rows)
    elif name == "uniform":
        made = rng.integers(1, capacity, rows, endpoint=True)
    elif name == "half":
        made = rng.integers(int(0.4 * capacity), int(0.6 * capacity), rows, endpoint=True)
    elif name == "quarter":
        made = rng.integers(low + 1, high, rows, endpoint=True)
    else:  # full packs, each cut into three samples of a quarter to a half
        two = rng.integers(low, high, (rows, 2), endpoint=True)
        fits = (capacity - two.sum(axis=1) >= low) & (capacity - two.sum(axis=1) <= high)
        two = two[fits][: rows // 3]
        made = rng.permutation(np.concatenate([two[:, 0], two[:, 1], capacity - two.sum(axis=1)]))
    return np.clip(made, 8 if name == "lognormal" else 1, capacity).astype(np.int32)


@dataclass
class Run:
    """What one packer did with one set; ``quality`` is that of ``seqpack.packing.quality``."""

    data: str
    rows: int
    capacity: int
    packer: str
    seconds: float
    growth: float
    quality: Any
    dealt: float


@dataclass
class Bench:
    """All runs, and the folder that lengths and results pass through."""

    folder: Path
    real: np.ndarray
    peers: str | None
    runs: list[Run] = field(default_factory=list)

    def pack(self, data: str, rows: int, capacity: int, packers: tuple[str, ...]) -> None:
        lengths = make_data(data, rows, capacity, self.real)
        source = self.folder / "lengths.npy"
        np.save(source, lengths.astype(np.uint16) if capacity < 1 << 16 else lengths)
        print(f"\n{data}, {rows:,} rows, {capacity:,} tokens", flush=True)
        print(f"{'':16}    packs  over bound  design effect  cost CV   seconds   Mrow/s  bytes/row")
        for packer in packers:
            self._one(data, rows, capacity, packer, source)

    def _one(self, data: str, rows: int, capacity: int, packer: str, source: Path) -> None:
        python = self.peers if packer in PEERS else sys.executable
        if python is None:
            return
        result = self.folder / "result.npz"
        command = [python, __file__, "--child", packer, str(source), str(capacity), str(result)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT.get(packer, SECONDS)
            )
        except subprocess.TimeoutExpired:
            print(f"{packer:16} takes more than {TIMEOUT.get(packer, SECONDS)} s", flush=True)
            return
        if done.returncode:
            print(f"{packer:16} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            return
        found = json.loads(done.stdout.splitlines()[-1])
        quality, dealt = measure(result, source, capacity)
        growth = found["growth"] / rows
        self.runs.append(Run(data, rows, capacity, packer, found["seconds"], growth, quality, dealt))
        print(
            f"{packer:16} {quality.packs:8,} {quality.over:11.4%} {quality.design_effect:14.2f} "
            f"{quality.cost_cv:8.3f} {found['seconds']:9.3f} {rows / found['seconds'] / 1e6:8.2f} {growth:10.0f}",
            flush=True,
        )

    def find(self, **facts: Any) -> list[Run]:
        return [run for run in self.runs if all(getattr(run, name) == value for name, value in facts.items())]


def measure(result: Path, source: Path, capacity: int) -> tuple[Any, float]:
    """Quality of a result, and the time 8 ranks lose to the slowest after its packs were dealt to them."""
    from seqpack.core.plan import PackPlan
    from seqpack.packing.bounds import lower_bound
    from seqpack.packing.lengths import histogram
    from seqpack.packing.quality import assess
    from seqpack.packing.ranks import deal_to_ranks, lost_time, pack_costs, rank_costs

    with np.load(result) as arrays:
        length, offsets, cuts = arrays["length"], arrays["offsets"], bool(arrays["cuts"])
    given = np.load(source)
    plan = PackPlan(capacity, np.arange(len(length)), offsets, length)
    assert length.sum(dtype=np.int64) == given.sum(dtype=np.int64), "tokens were lost"
    assert plan.fill().max() <= capacity, "a pack is too full"
    if not cuts:
        counts = histogram(given, capacity)
        assert (histogram(length, capacity) == counts).all(), "samples were changed"
        assert lower_bound(counts, capacity) == assess(plan).lower_bound
    cost = pack_costs(plan)
    dealt = deal_to_ranks(cost, ranks=8, rng=np.random.default_rng(0))
    return assess(plan), lost_time(rank_costs(cost, dealt))


def child(packer: str, source: str, capacity: int, result: str) -> None:
    """Pack once or thrice, write the lengths of each pack, print seconds and growth of memory."""
    lengths = np.load(source, mmap_mode="r")
    pack = PACKERS.get(packer, seqpack)
    prepared = pack(packer, lengths, capacity)
    before = peak_memory()
    seconds, growth = [], 0
    for _ in range(3 if len(lengths) <= 1_000_000 and packer not in TIMEOUT else 1):
        began = time.perf_counter()
        made = prepared()
        seconds.append(time.perf_counter() - began)
        growth = growth or peak_memory() - before
        if sum(seconds) > 5:
            break
    length, offsets, cuts = made
    np.savez(result, length=length() if callable(length) else length, offsets=offsets, cuts=cuts)
    print(json.dumps({"seconds": min(seconds), "growth": growth}))


def peak_memory() -> int:
    """The most memory this process had, in bytes. Not ru_maxrss, which begins with that of the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def seqpack(packer: str, lengths: np.ndarray, capacity: int) -> Any:
    from seqpack.hooks.host import PluginHost
    from seqpack.packing.planning import make_plan

    strategy = PluginHost([]).strategy(packer)
    strategy.load()

    def run() -> Any:
        plan = make_plan(strategy, lengths, seq_length=capacity, seed=0)
        return (lambda: plan.length.astype(np.int32)), plan.offsets, plan.cut_length is not None

    return run


def seqpacker(packer: str, lengths: np.ndarray, capacity: int) -> Any:
    from seqpacker import Packer

    wide = lengths.astype(np.int64)  # what it asks for; not counted

    def run() -> Any:
        packed = Packer(capacity=capacity, strategy="ffs" if packer.endswith("ffs") else "obfd", seed=0)
        items, inner = packed.pack_flat(wide)
        return lengths[items], np.concatenate([[0], inner, [len(items)]]), False

    return run


def trl(packer: str, lengths: np.ndarray, capacity: int) -> Any:
    import pyarrow as pa
    from trl.data_utils import _pack_bfd

    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    column = pa.LargeListArray.from_arrays(ends, pa.nulls(int(ends[-1])))
    table = pa.table({"input_ids": column})

    def run() -> Any:
        packed = _pack_bfd(table, capacity)["seq_lengths"].combine_chunks()
        return packed.values.to_numpy(), packed.offsets.to_numpy(), False

    return run


def binpacking(packer: str, lengths: np.ndarray, capacity: int) -> Any:
    from binpacking import to_constant_volume

    values = lengths.tolist()

    def run() -> Any:
        bins = to_constant_volume(values, capacity)
        sizes = np.cumsum([0, *map(len, bins)])
        return np.array([length for inside in bins for length in inside], np.int32), sizes, False

    return run


PACKERS = {"seqpacker": seqpacker, "seqpacker-ffs": seqpacker, "trl": trl, "binpacking": binpacking}


def growth(real: np.ndarray) -> None:
    """Planning alone and planning with materialising, over rows and over capacities."""
    from seqpack.packing.balanced import balanced
    from seqpack.packing.best_fit import best_fit
    from seqpack.packing.lengths import histogram

    print("\ngrowth, lognormal: seconds of planning alone / of everything")
    sizes = ((100_000, 8192), (1_000_000, 8192), (10_000_000, 8192), (1_000_000, 3276), (1_000_000, 32768))
    for rows, capacity in sizes:
        lengths = make_data("lognormal", rows, capacity, real)
        counts = histogram(lengths, capacity)
        line = []
        for name, plan in (("bfd", best_fit), ("balanced", balanced)):
            began = time.perf_counter()
            plan(counts, capacity)
            planned = time.perf_counter() - began
            everything = seqpack(name, lengths, capacity)
            began = time.perf_counter()
            everything()
            line.append(f"{name} {planned:6.3f} / {time.perf_counter() - began:6.3f}")
        print(f"{rows:11,} rows, {capacity:6,} tokens: {'   '.join(line)}", flush=True)


def bars(bench: Bench) -> None:
    """Our bars, and what was found."""
    print("\nbars")
    _quality_bars(bench)
    _speed_bars(bench)
    for run in bench.find(packer="balanced", data="lognormal", capacity=32768):
        say(
            run.dealt <= 0.015,
            f"8 ranks, lognormal 32k, {run.rows:,} rows",
            f"{run.quality.dp8:.1%} -> {run.dealt:.2%}",
        )
    for run in bench.runs:
        if run.rows >= 100_000_000:
            good = run.seconds < 30 and run.growth <= 25
            say(good, f"{run.packer}, {run.rows:,} rows", f"{run.seconds:.1f} s, {run.growth:.1f} bytes per row")


def _quality_bars(bench: Bench) -> None:
    for run in bench.runs:
        quality, where = run.quality, name(run)
        same = bench.find(data=run.data, rows=run.rows, capacity=run.capacity)
        peers = [other.quality for other in same if other.packer in PEERS]
        over = f"{quality.over:.4%} over"
        is_real = run.data in ("alpaca", "lognormal")
        if is_real and run.packer == "exact":
            fewest = min((peer.packs for peer in peers), default=quality.packs)
            good = quality.over <= 5e-5 or quality.packs - quality.lower_bound <= 3
            say(good and quality.packs <= fewest, where, over)
        elif is_real and run.packer == "balanced":
            least = min((peer.cost_cv for peer in peers), default=np.inf)
            good = quality.over <= 1e-3 and quality.design_effect <= 1.3 and quality.cost_cv < least
            mixed = f"design effect {quality.design_effect:.2f}, cost CV {quality.cost_cv:.3f}, peers {least:.3f}"
            say(good, where, f"{over}, {mixed}")
        elif is_real and run.packer == "stream":
            say(quality.over <= 1.5e-3, where, over)
        elif run.packer == "optimal":
            bound = linear_program(run, bench.real)
            good = quality.packs <= np.ceil(bound * 1.0001)
            say(good, where, f"{quality.packs:,} packs, linear program {bound:,.2f}")


def name(run: Run) -> str:
    return f"{run.packer}, {run.data}, {run.rows:,} rows, {run.capacity:,}"


def linear_program(run: Run, real: np.ndarray) -> float:
    from seqpack.packing.exact import fewest
    from seqpack.packing.lengths import histogram
    from seqpack.packing.optimal import linear_bound

    counts = histogram(make_data(run.data, run.rows, run.capacity, real), run.capacity)
    return linear_bound(counts, run.capacity, fewest(counts, run.capacity))


def _speed_bars(bench: Bench) -> None:
    for run in bench.runs:
        where = name(run)
        if run.rows == 52_000 and run.packer in OURS and run.packer != "optimal":
            if run.seconds >= 0.3:
                say(False, where, f"{run.seconds:.3f} s, bar 0.3 s")
            continue
        least = {"bfd": {1_000_000: 1.5, 10_000_000: 3}, "ffd": {1_000_000: 1.5, 10_000_000: 3}}
        least["balanced"] = {10_000_000: 1}
        for other in bench.find(data=run.data, rows=run.rows, capacity=run.capacity):
            factor = other.seconds / run.seconds
            if other.packer == "seqpacker" and (bar := least.get(run.packer, {}).get(run.rows)):
                say(factor >= bar, where, f"{factor:.1f} times seqpacker, bar {bar}")
            if other.packer in ("trl", "binpacking") and run.packer == "balanced" and run.rows == 1_000_000:
                say(factor >= 5, where, f"{factor:.0f} times {other.packer}, bar 5")
    small = [run.seconds for run in bench.find(rows=52_000) if run.packer in OURS and run.packer != "optimal"]
    say(
        max(small, default=0) < 0.3,
        "52,000 rows, slowest strategy and set",
        f"{max(small, default=0):.3f} s, bar 0.3 s",
    )


def say(good: bool, where: str, text: str) -> None:
    print(f"{'ok  ' if good else 'MISS'} {where}: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", type=Path)
    parser.add_argument("--peers", help="Python with trl, seqpacker, binpacking")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--huge", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), np.load(arguments.lengths), arguments.peers)
        everybody = (*OURS, *PEERS)
        hard_only = tuple(packer for packer in everybody if packer != "optimal")
        for data in QUICK if arguments.quick else DATA:
            for capacity in CAPACITIES[:1] if arguments.quick else CAPACITIES:
                solved = capacity == 2048 and data in ("quarter", "triples")
                packers = everybody if solved else hard_only
                if (data, capacity) != ("alpaca", 32768):  # quadratic in packs: minutes and hours elsewhere
                    packers = tuple(packer for packer in packers if packer != "binpacking")
                bench.pack(data, 52_000, capacity, packers)
        if not arguments.quick:
            million = tuple(packer for packer in hard_only if packer != "binpacking")
            for data in DATA:
                for capacity in CAPACITIES if data in ("alpaca", "lognormal") else CAPACITIES[:1]:
                    solved = data in ("quarter", "triples")
                    bench.pack(data, 1_000_000, capacity, (*million, "optimal") if solved else million)
            for data in ("alpaca", "lognormal"):
                bench.pack(data, 10_000_000, 8192, ("balanced", "bfd", "ffd", "exact", "sequential", "seqpacker"))
            growth(bench.real)
        if arguments.huge:
            bench.pack("lognormal", 100_000_000, 8192, ("bfd", "balanced"))
        bars(bench)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
