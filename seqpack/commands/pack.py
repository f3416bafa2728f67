"""``seqpack pack``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError
from seqpack.options.check import refuse_all, refuse_idle
from seqpack.options.data import PlanOptions, StrategyOptions, WorkOptions
from seqpack.options.either import OptionalTextOptions
from seqpack.options.output import OutputOptions
from seqpack.options.pack import PackInputOptions, PackLengthOptions
from seqpack.options.resolved import Resolved

if TYPE_CHECKING:
    from seqpack.report.console import Console


def pack(
    input: PackInputOptions,
    text: OptionalTextOptions,
    length: PackLengthOptions,
    strategy: StrategyOptions,
    plan: PlanOptions,
    work: WorkOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Pack a tokenized set again, named by its PREFIX: another length, strategy or mask, without tokenizing. Or put the
    rows of raw files into groups that fill packs, a JSON list on each line, for preprocess --pregrouped. With
    --plan-only or --lengths, only say which sample goes where, and how good that is.

    Examples:
        seqpack pack packs/mine --seq-length 8192 --neat-pack --strategy greedy -o packs/mine-8k
        seqpack pack data.jsonl --tokenizer DIR --seq-length 4096 -o groups.jsonl
        seqpack pack --lengths lengths.npy --seq-length 8192 --strategy exact --json
    """
    from seqpack.pipeline.either import the_set
    from seqpack.report.console import Console

    asked = _Asked(input, text, length, strategy, plan, work)
    console = Console(output)
    prefix = the_set(input)
    if plan.plans:
        _plan_only(console, prefix, asked)
    elif not input.input:
        raise ConfigError("SP001", "INPUT is missing", help="name raw files, or the PREFIX of a set")
    elif prefix is None:
        _group(console, asked, resolved.to_yaml())
    else:
        _repack(console, prefix, asked, resolved.to_yaml())


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of one call."""

    input: PackInputOptions
    text: OptionalTextOptions
    length: PackLengthOptions
    strategy: StrategyOptions
    plan: PlanOptions
    work: WorkOptions

    def refuse_raw(self, because: str) -> None:
        """ConfigError for options that only mean something for raw files."""
        for options, allowed in ((self.input, ("input",)), (self.text, ()), (self.work, ())):
            refuse_all(options, *allowed, because=because, help="leave it out")


def _repack(console: Console, prefix: Path, asked: _Asked, resolved: str) -> None:
    from seqpack.pipeline.repack import repack
    from seqpack.report.written import report_data_set

    asked.refuse_raw(f"{prefix} is a set that is tokenized already")
    result = repack(
        asked.length.for_set(prefix), asked.strategy, asked.plan.write, resolved=resolved, progress=console.progress
    )
    report_data_set(console, result)


def _group(console: Console, asked: _Asked, resolved: str) -> None:
    from seqpack.pipeline.grouping import group_rows
    from seqpack.report.command_lines import command_line, given_flags, set_name
    from seqpack.report.inputs import report_inputs
    from seqpack.report.written import report_groups

    input, length = asked.input, asked.length.for_rows()
    why = "groups of rows are no tokens yet"
    refuse_idle(asked.strategy, ("neat_pack", "mask"), because=why, help="give it to seqpack preprocess --pregrouped")
    refuse_idle(asked.strategy, ("align",), because=why, help="leave it out")
    refuse_idle(asked.plan, ("emit",), because=why, help="give it to seqpack preprocess --pregrouped")
    text = asked.text.required()
    result = group_rows(
        input,
        text,
        length,
        asked.strategy,
        asked.plan.write,
        workers=asked.work.workers,
        resolved=resolved,
        progress=console.progress,
        say=console.note,
    )
    report_inputs(console, input.input, result.sources)
    leave = ("seq_length", "on_overlong", "max_drop", *(("handler", "dataset_dir") if input.dataset_dir else ()))
    flags = given_flags(input, text, length, leave=leave)
    words = ("seqpack", "preprocess", result.path, "--pregrouped", *flags, "--seq-length", length.seq_length)
    report_groups(console, result, command_line(*words, "--neat-pack", "-o", set_name([result.path])))


def _plan_only(console: Console, prefix: Path | None, asked: _Asked) -> None:
    from seqpack.pipeline.plan_only import plan_only
    from seqpack.report.plans import report_plan

    plan = asked.plan
    because = "a plan says who shares a pack, not who sees whom"
    refuse_idle(asked.strategy, ("neat_pack", "mask"), because=because, help="leave it out, and give it when packing")
    refuse_idle(plan, ("emit",), because="no packs are written", help="leave it out")
    asked.refuse_raw("a plan is made of a set or of --lengths")
    if plan.lengths is not None and asked.input.input:
        raise ConfigError("SP001", "both a set and --lengths are given", help="leave one of them out")
    if plan.lengths is None and prefix is None:
        raise ConfigError("SP001", "--plan-only plans a set, and its PREFIX is missing", help="preprocess makes one")
    if plan.lengths is None and plan.output is None:
        raise ConfigError("SP001", "--output is missing", help="-o FILE says where the plan goes")
    report_plan(console, plan_only(plan, asked.length.for_set(prefix), asked.strategy))
