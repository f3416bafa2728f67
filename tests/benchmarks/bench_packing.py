"""Packing strategies beside the packers people use now: packs, mixing, balance, speed, memory, and how they grow.

    python tests/benchmarks/bench_packing.py LENGTHS.npy [--peers PYTHON] [--quick | --huge] [--results FILE]

LENGTHS.npy are token counts of real instructions; the data set "alpaca" draws from them. PYTHON is an interpreter of an
environment of its own that has trl, seqpacker and binpacking, or some of them; peers that it lacks are left out.
``--quick`` takes a minute or two; without it, 1 and 10 million rows are packed too (some 20 minutes); ``--huge`` adds
100 million. ``--results`` keeps what was found, and a benchmark that was stopped goes on there; ours is measured again
after a change of seqpack/packing. The last lines compare what was found with our bars; ``--table FILE`` writes a table.

Every run is a process of its own, which reports seconds of one core (planning and materialising, best of three up to
10 million rows, unless that takes longer than five seconds) and the growth of its memory. Seconds are CPU time, so that
other work on the machine shows little. Measures are of what came out, computed here, the same for all.
TRL's packer is run over the whole set, on lists of nulls: its default is 1,000 rows at a time,
and moving tokens would be counted too. What a peer needs besides lengths, such as 64-bit copies, is not counted.

Growth: planning depends on the number of distinct lengths, at most the capacity, and not on rows; materialising is
linear in rows. The section "growth" shows both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the environment of the peers has no seqpack
    from seqpack.packing.quality import PlanQuality

OURS = ("balanced", "bfd", "ffd", "exact", "optimal", "shuffle", "sequential", "wrapped", "stream")
PEERS = ("trl", "seqpacker", "seqpacker-ffs", "binpacking")
DATA = ("alpaca", "lognormal", "uniform", "half", "quarter", "triples")
EVERYBODY = (*OURS, *PEERS)
NOT_PLANNING = ("saved.py", "epochs.py", "ranks.py", "quality.py")
QUICK = ("alpaca", "lognormal", "triples")
CAPACITIES = (2048, 8192, 32768)
TIMEOUT = {"binpacking": 40, "optimal": 300, "trl": 600}
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
    quality: PlanQuality
    dealt: float
    wall: float = 0.0
    version: str = ""


@dataclass
class Bench:
    """All runs, and the folder that lengths and results pass through."""

    folder: Path
    real: np.ndarray
    peers: str | None
    results: Path | None = None
    runs: list[Run] = field(default_factory=list)

    def load(self) -> None:
        """Take over what an earlier call found with the same code."""
        from seqpack.packing.quality import PlanQuality

        if self.results is None or not self.results.exists():
            return
        for line in self.results.read_text().splitlines():
            run = Run(**json.loads(line))
            run.quality = PlanQuality(**json.loads(line)["quality"])
            if run.version == version_of(run.packer):
                self.runs.append(run)

    def pack(self, data: str, rows: int, capacity: int, packers: tuple[str, ...]) -> None:
        done = {run.packer for run in self.find(data=data, rows=rows, capacity=capacity)}
        packers = tuple(packer for packer in packers if packer not in done)
        if not packers:
            return
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
        limit = TIMEOUT.get(packer, SECONDS) * max(1, rows // 10_000_000)
        command = [python, __file__, "--child", packer, str(source), str(capacity), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            print(f"{packer:16} takes more than {limit} s", flush=True)
            return
        if done.returncode:
            print(f"{packer:16} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            return
        found = json.loads(done.stdout.splitlines()[-1])
        quality, dealt = measure(result, source, capacity)
        growth = found["growth"] / rows
        times = found["seconds"], found["wall"]
        run = Run(data, rows, capacity, packer, times[0], growth, quality, dealt, times[1], version_of(packer))
        self.runs.append(run)
        if self.results is not None:
            with self.results.open("a") as file:
                file.write(json.dumps(asdict(run)) + "\n")
        print(
            f"{packer:16} {quality.packs:8,} {quality.over:11.4%} {quality.design_effect:14.2f} "
            f"{quality.cost_cv:8.3f} {found['seconds']:9.3f} {rows / found['seconds'] / 1e6:8.2f} {growth:10.0f}",
            flush=True,
        )

    def find(self, **facts: Any) -> list[Run]:
        return [run for run in self.runs if all(getattr(run, name) == value for name, value in facts.items())]


def version_of(packer: str) -> str:
    """A digest of our planners, so that results of older ones are not taken over; nothing for other packers."""
    if packer not in OURS:
        return ""
    from seqpack import packing

    digest = hashlib.sha256()
    for path in sorted(Path(packing.__path__[0]).glob("*.py")):
        if path.name not in NOT_PLANNING:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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
    seconds, walls, growth = [], [], 0
    for _ in range(3 if len(lengths) <= 10_000_000 and packer not in TIMEOUT else 1):
        began, cpu = time.perf_counter(), time.process_time()
        made = prepared()
        seconds.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - began)
        growth = growth or peak_memory() - before
        if sum(seconds) > 5:
            break
    length, offsets, cuts = made
    np.savez(result, length=length() if callable(length) else length, offsets=offsets, cuts=cuts)
    print(json.dumps({"seconds": min(seconds), "wall": min(walls), "growth": growth}))


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


def small(bench: Bench, *, quick: bool) -> None:
    """52,000 rows."""
    for data in QUICK if quick else DATA:
        for capacity in CAPACITIES[:1] if quick else CAPACITIES:
            left_out = {"optimal", "binpacking"}
            if capacity == 2048 and data in ("quarter", "triples"):
                left_out.remove("optimal")
            if (data, capacity) == ("alpaca", 32768):  # quadratic in packs: minutes and hours elsewhere
                left_out.remove("binpacking")
            if capacity == 32768 and data not in ("alpaca", "lognormal"):
                left_out.add("trl")  # half a minute each
            bench.pack(data, 52_000, capacity, tuple(packer for packer in EVERYBODY if packer not in left_out))


def large(bench: Bench) -> None:
    """1 and 10 million rows."""
    million = tuple(packer for packer in EVERYBODY if packer not in ("optimal", "binpacking"))
    for data in DATA:
        for capacity in CAPACITIES if data in ("alpaca", "lognormal") else CAPACITIES[:1]:
            solved = ("optimal",) if data in ("quarter", "triples") else ()
            slow = () if capacity == 2048 and data in ("alpaca", "lognormal") else ("trl",)  # minutes
            bench.pack(data, 1_000_000, capacity, tuple(name for name in (*million, *solved) if name not in slow))
    ours = tuple(packer for packer in OURS if packer not in ("optimal", "shuffle"))
    for data in ("alpaca", "lognormal"):
        for capacity in CAPACITIES:
            bench.pack(data, 10_000_000, capacity, (*ours, "seqpacker"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", type=Path)
    parser.add_argument("--peers", help="Python with trl, seqpacker, binpacking")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--results", type=Path, help="file of results, kept and gone on with")
    parser.add_argument("--table", type=Path, help="file for a table of the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), np.load(arguments.lengths), arguments.peers, arguments.results)
        bench.load()
        small(bench, quick=arguments.quick)
        if not arguments.quick:
            large(bench)
            growth(bench.real)
        if arguments.huge:
            bench.pack("lognormal", 100_000_000, 8192, ("bfd", "balanced"))
        from packing_report import bars, table

        bars(bench)
        if arguments.table is not None:
            arguments.table.write_text(table(bench))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
