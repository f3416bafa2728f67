"""What a command says about a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.report.command_lines import command_line

if TYPE_CHECKING:
    from seqpack.pipeline.plan_only import PlanResult
    from seqpack.report.console import Console


def report_plan(console: Console, result: PlanResult) -> None:
    """A few lines, or one JSON object."""
    quality, record = result.quality, result.record
    console.show(
        f"{quality.packs:,} packs of {record.seq_length:,} · {record.strategy} · {quality.over:.3%} over the bound of "
        f"{quality.lower_bound:,} · {quality.fill:.2%} filled"
    )
    console.show(
        f"design effect {quality.design_effect:.2f} (1: as mixed as a random draw) · attention cost varies by "
        f"{quality.cost_cv:.2f} · 8 ranks lose {quality.dp8:.1%} to the slowest · {result.seconds:.3f} s"
    )
    if result.dropped:
        console.warn("SP102", f"{result.dropped:,} samples longer than --seq-length are not in the plan")
    if result.output is not None:
        console.show(f"wrote {result.output}, fingerprint {record.fingerprint[:12]}")
        if result.source is not None:
            words = ("seqpack", "train", result.source, "--plan", result.output, "--neat-pack")
            console.note(f"next: {command_line(*words)} --model DIRECTORY --save RUN")
    console.result(result.to_dict())
