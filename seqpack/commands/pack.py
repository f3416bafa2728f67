"""``seqpack pack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.options.data import InputOptions, StrategyOptions, WorkOptions, WriteOptions
from seqpack.options.either import FilesOrSetOptions, OptionalTextOptions
from seqpack.options.output import OutputOptions
from seqpack.options.pack import PackLengthOptions
from seqpack.options.resolved import Resolved

if TYPE_CHECKING:
    from seqpack.report.console import Console


def pack(
    input: FilesOrSetOptions,
    text: OptionalTextOptions,
    length: PackLengthOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    work: WorkOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Pack a tokenized set again, named by its PREFIX: another length, strategy or mask, without tokenizing. Or put the
    rows of raw files into groups that fill packs, a JSON list on each line, for preprocess --pregrouped.

    Examples:
        seqpack pack plain/mine --seq-length 4096 --neat-pack -o packs/mine-4k
        seqpack pack packs/mine --seq-length 8192 --neat-pack --strategy greedy -o packs/mine-8k
        seqpack pack data.jsonl --tokenizer DIR --seq-length 4096 -o groups.jsonl
    """
    from seqpack.pipeline.either import the_set
    from seqpack.report.console import Console

    console = Console(output)
    prefix = the_set(input)
    if prefix is None:
        _group(input, text, length, strategy, write, work, resolved, console)
    else:
        _repack(prefix, input, text, length, strategy, write, work, resolved, console)


def _repack(
    prefix: Path,
    input: InputOptions,
    text: OptionalTextOptions,
    length: PackLengthOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    work: WorkOptions,
    resolved: Resolved,
    console: Console,
) -> None:
    from seqpack.options.check import refuse_all
    from seqpack.pipeline.repack import repack as run
    from seqpack.report.written import report_data_set

    why = {"because": f"{prefix} is a set that is tokenized already", "help": "leave it out"}
    refuse_all(input, "input", **why)
    refuse_all(text, **why)
    refuse_all(work, **why)
    result = run(length.for_set(prefix), strategy, write, resolved=resolved.to_yaml(), progress=console.progress)
    report_data_set(console, result)


def _group(
    input: InputOptions,
    text: OptionalTextOptions,
    length: PackLengthOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    work: WorkOptions,
    resolved: Resolved,
    console: Console,
) -> None:
    from seqpack.options.check import refuse_idle
    from seqpack.pipeline.grouping import group_rows
    from seqpack.report.command_lines import command_line, given_flags, set_name
    from seqpack.report.inputs import report_inputs
    from seqpack.report.written import report_groups

    why = "groups of rows are no tokens yet"
    refuse_idle(strategy, ("neat_pack",), because=why, help="give it to seqpack preprocess --pregrouped")
    refuse_idle(write, ("emit",), because=why, help="give it to seqpack preprocess --pregrouped")
    required = text.required()
    result = group_rows(
        input,
        required,
        length.for_rows(),
        strategy,
        write,
        workers=work.workers,
        resolved=resolved.to_yaml(),
        progress=console.progress,
        say=console.note,
    )
    report_inputs(console, input.input, result.sources)
    leave = ("seq_length", "on_overlong", "max_drop", *(("handler", "dataset_dir") if input.dataset_dir else ()))
    flags = given_flags(input, required, length.for_rows(), leave=leave)
    words = ("seqpack", "preprocess", result.path, "--pregrouped", *flags, "--seq-length", length.seq_length)
    report_groups(console, result, command_line(*words, "--neat-pack", "-o", set_name([result.path])))
