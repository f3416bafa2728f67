"""What ``bench_packing.py`` found: against our bars, and as a table of ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from bench_packing import DATA, OURS, PEERS, make_data

if TYPE_CHECKING:
    from bench_packing import Bench, Run


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
        fewest = min((peer.packs for peer in peers), default=quality.packs)
        if is_real and run.packer == "exact":
            good = quality.over <= 5e-5 or quality.packs - quality.lower_bound <= 3
            say(good and quality.packs <= fewest, where, over)
        elif is_real and run.packer == "balanced":
            least = min((peer.cost_cv for peer in peers), default=np.inf)
            good = quality.over <= 1e-3 and quality.design_effect <= 1.3 and quality.cost_cv < least
            good = good and quality.packs <= fewest
            mixed = f"design effect {quality.design_effect:.2f}, cost CV {quality.cost_cv:.3f}, peers {least:.3f}"
            say(good, where, f"{over}, fewest of peers {fewest - quality.packs:+,}, {mixed}")
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


def table(bench: Bench) -> str:
    """One line for each set: packs over the bound, how well ``balanced`` mixes, and how many times faster ours are."""
    columns = (
        "set", "rows", "length", "bound", "balanced", "exact", "bfd, ffd", "best peer", "design effect", "peers",
        "cost CV", "peers", "balanced, s", "ffd, s", "balanced : seqpacker", "bfd", "ffd", "balanced : TRL",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for data in DATA:
        keys = sorted({(run.rows, run.capacity) for run in bench.find(data=data)})
        lines += [_line(bench, data, *key) for key in keys]
    return "\n".join(lines) + "\n"


def _line(bench: Bench, data: str, rows: int, capacity: int) -> str:
    runs = {run.packer: run for run in bench.find(data=data, rows=rows, capacity=capacity)}
    peers = [run.quality for name, run in runs.items() if name in PEERS]
    bound = runs["balanced"].quality.lower_bound

    def over(name: str) -> str:
        return f"+{runs[name].quality.packs - bound:,}" if name in runs else ""

    def factor(ours: str, peer: str) -> str:
        return f"{runs[peer].seconds / runs[ours].seconds:.1f}" if ours in runs and peer in runs else ""

    both = {over("bfd"), over("ffd")}
    quality = runs["balanced"].quality
    cells = [
        data,
        f"{rows:,}",
        f"{capacity:,}",
        f"{bound:,}",
        over("balanced"),
        over("exact"),
        ", ".join(sorted(both)),
        f"+{min(peer.packs for peer in peers) - bound:,}" if peers else "",
        f"{quality.design_effect:.2f}",
        _range([peer.design_effect for peer in peers], 1),
        f"{quality.cost_cv:.3f}",
        _range([peer.cost_cv for peer in peers], 3),
        f"{runs['balanced'].seconds:.3f}",
        f"{runs['ffd'].seconds:.3f}" if "ffd" in runs else "",
        factor("balanced", "seqpacker"),
        factor("bfd", "seqpacker"),
        factor("ffd", "seqpacker"),
        factor("balanced", "trl"),
    ]
    return "| " + " | ".join(cells) + " |"


def _range(values: list[float], digits: int) -> str:
    """The least and the most: "1.0-8.5"."""
    ends = [f"{value:.{digits}f}" for value in (min(values), max(values))] if values else []
    return "-".join(dict.fromkeys(ends))
