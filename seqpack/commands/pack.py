"""``seqpack pack``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError
from seqpack.options.check import refuse_idle
from seqpack.options.data import PlanOptions, RepackOptions, StrategyOptions
from seqpack.options.output import OutputOptions
from seqpack.options.resolved import Resolved

if TYPE_CHECKING:
    from seqpack.report.console import Console


def pack(
    repack: RepackOptions,
    strategy: StrategyOptions,
    plan: PlanOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Pack a tokenized set again: another length, strategy or mask, without tokenizing. With --plan-only or --lengths,
    only say which sample goes where, and how good that is.

    Examples:
        seqpack pack plain/mine --seq-length 4096 --neat-pack -o packs/mine-4k
        seqpack pack packs/mine --seq-length 2048 --plan-only -o plans/mine-2k.npz
        seqpack pack --lengths lengths.npy --seq-length 8192 --strategy exact --json
    """
    from seqpack.report.console import Console

    console = Console(output)
    if plan.plans:
        _plan_only(console, repack, strategy, plan)
        return
    from seqpack.pipeline.repack import repack as run
    from seqpack.report.written import report_data_set

    result = run(repack, strategy, plan.write, resolved=resolved.to_yaml(), progress=console.progress)
    report_data_set(console, result)


def _plan_only(console: Console, repack: RepackOptions, strategy: StrategyOptions, plan: PlanOptions) -> None:
    from seqpack.pipeline.plan_only import plan_only
    from seqpack.report.plans import report_plan

    because = "a plan says who shares a pack, not who sees whom"
    refuse_idle(strategy, ("neat_pack", "mask"), because=because, help="leave it out, and give it when packing")
    refuse_idle(plan, ("emit",), because="no packs are written", help="leave it out")
    if plan.lengths is not None and repack.source is not None:
        raise ConfigError("SP001", "both a set and --lengths are given", help="leave one of them out")
    if plan.lengths is None and plan.output is None:
        raise ConfigError("SP001", "--output is missing", help="-o FILE says where the plan goes")
    report_plan(console, plan_only(plan, repack, strategy))
