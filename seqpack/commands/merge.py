"""``seqpack merge``."""

from __future__ import annotations

from seqpack.options.data import MergeOptions
from seqpack.options.output import OutputOptions


def merge(merge: MergeOptions, output: OutputOptions) -> None:
    """Make the data set out of the parts that runs of preprocess with --shard-index left on a shared disk. The set is
    byte for byte that of a single run.

    Examples:
        seqpack merge text/big
        seqpack merge text/big --overwrite
        seqpack merge text/big --json
    """
    from seqpack.pipeline.preprocess import merge as run
    from seqpack.report.console import Console
    from seqpack.report.written import report_result

    console = Console(output)
    report_result(console, run(merge, progress=console.progress, say=console.note))
