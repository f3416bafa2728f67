"""``seqpack pack``."""

from __future__ import annotations

from seqpack.options.data import RepackOptions, StrategyOptions, WriteOptions
from seqpack.options.output import OutputOptions
from seqpack.options.resolved import Resolved


def pack(
    repack: RepackOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Pack a tokenized set again: another length, strategy or mask, without tokenizing.

    Examples:
        seqpack pack plain/mine --seq-length 4096 --neat-pack -o packs/mine-4k
        seqpack pack packs/mine --seq-length 8192 --neat-pack --strategy greedy -o packs/mine-8k
        seqpack pack packs/mine --seq-length 2048 -o packs/mine-causal
    """
    from seqpack.pipeline.repack import repack as run
    from seqpack.report.console import Console
    from seqpack.report.written import report_data_set

    console = Console(output)
    result = run(repack, strategy, write, resolved=resolved.to_yaml(), progress=console.progress)
    report_data_set(console, result)
