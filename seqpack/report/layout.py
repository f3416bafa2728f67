"""What a layout of several processes asks of each: shown before any of them starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.report.numbers import share

if TYPE_CHECKING:
    from seqpack.report.console import Console
    from seqpack.train.summary import LayoutEstimate


def show_layout(console: Console, estimate: LayoutEstimate) -> None:
    """Memory of the process that needs most, and what each sends to others in a step."""
    if console.options.quiet:
        return
    from rich.table import Table

    memory = Table(
        title=f"{estimate.ranks:,} processes, {estimate.layout}: memory of the one that needs most, reckoned"
    )
    memory.add_column("for")
    memory.add_column("a process", justify="right")
    for name, size in (
        ("weights, gradients and optimizer", estimate.state_bytes),
        ("weights and gradients that are whole for a time", estimate.gathered_bytes),
        ("activations", estimate.activation_bytes),
        ("together", estimate.total_bytes),
    ):
        memory.add_row(name, _size(size))
    console.print(memory)
    if estimate.traffic:
        traffic = Table(title="what a process sends in a step")
        traffic.add_column("axis")
        traffic.add_column("what")
        traffic.add_column("a process", justify="right")
        for sent in estimate.traffic:
            traffic.add_row(sent.axis, sent.what, _size(sent.bytes))
        console.print(traffic)
    if estimate.bubble:
        console.note(f"the pipeline waits for {share(estimate.bubble)} of a step")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:,.2f} MiB"
