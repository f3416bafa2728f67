"""``seqpack stats``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.options.data import InputOptions, LengthOptions, TextOptions, WorkOptions
from seqpack.options.either import FilesOrSetOptions, ForecastLengthOptions, OptionalTextOptions
from seqpack.options.output import OutputOptions
from seqpack.options.screens import ForecastOptions

if TYPE_CHECKING:
    from seqpack.pipeline.forecast import Stats
    from seqpack.report.console import Console


def stats(
    input: FilesOrSetOptions,
    text: OptionalTextOptions,
    length: ForecastLengthOptions,
    forecast: ForecastOptions,
    work: WorkOptions,
    output: OutputOptions,
) -> None:
    """Token lengths of raw files, or of a set by its PREFIX, and what every way of laying them out would cost. Writes
    nothing but --plot.

    Examples:
        seqpack stats data.jsonl --tokenizer DIR --seq-length 4096 --plot lengths.html
        seqpack stats packs/mine --seq-length 8192
        seqpack stats big/*.jsonl --tokenizer DIR --sample 1% --json
    """
    from seqpack.pipeline.either import the_set
    from seqpack.report.console import Console

    console = Console(output)
    prefix = the_set(input)
    if forecast.plot and not forecast.characters:
        _check_plot(forecast.plot)
    if forecast.characters:
        _characters(input, text, length, forecast, console, is_set=prefix is not None)
    elif prefix is not None:
        _measure_set(prefix, input, text, length, forecast, work, console)
    else:
        _measure_files(input, text.required(), length.parsed(), forecast, work, console)


def _measure_files(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    forecast: ForecastOptions,
    work: WorkOptions,
    console: Console,
) -> None:
    from seqpack.pipeline.row_sample import parse_share
    from seqpack.pipeline.stats import stats as measure
    from seqpack.report.command_lines import command_line, given_flags, set_name
    from seqpack.report.inputs import report_inputs
    from seqpack.report.written import warn_of_losses

    result = measure(
        input,
        text,
        length,
        seed=forecast.seed,
        share=parse_share(forecast.sample),
        batch_size=forecast.global_batch_size,
        workers=work.workers,
        progress=console.progress,
        say=console.note,
    )
    if result.engine_refused:
        console.warn("SP118", f"a faster tokenizer engine was not used: {result.engine_refused}")
    report_inputs(console, input.input, [Path(file) for file in result.files])
    flags = given_flags(input, text, length, leave=("seq_length",))
    files = [Path(file) for file in result.files]
    words: tuple[object, ...] = ("seqpack", "preprocess", *input.input, *flags)
    if result.source == "pretraining text":
        words = (*words, "-o", set_name(files, folder="text"))
    else:
        words = (*words, "--seq-length", result.seq_length, "--neat-pack", "-o", set_name(files))
    _report(result, forecast, console, command_line(*words))
    warn_of_losses(console, result)
    console.result(result.to_dict())


def _measure_set(
    prefix: Path,
    input: InputOptions,
    text: TextOptions,
    length: ForecastLengthOptions,
    forecast: ForecastOptions,
    work: WorkOptions,
    console: Console,
) -> None:
    from seqpack.options.check import refuse_all
    from seqpack.pipeline.set_stats import set_stats
    from seqpack.report.command_lines import command_line
    from seqpack.report.numbers import count

    why = {"because": f"{prefix} is a set that is tokenized already", "help": "leave it out"}
    refuse_all(input, "input", **why)
    refuse_all(text, **why)
    refuse_all(length, "seq_length", **why)
    refuse_all(work, **why)
    refuse_all(forecast, "seed", "global_batch_size", "plot", **why)
    result = set_stats(
        prefix, seq_length=length.parsed().seq_length, seed=forecast.seed, batch_size=forecast.global_batch_size
    )
    words: tuple[object, ...] = ("seqpack", "pack", prefix, "--seq-length", result.seq_length, "--neat-pack")
    words = (*words, *(("--on-overlong", "drop") if result.longest else ()), "-o", f"{prefix}-{result.seq_length}")
    if result.source != "tokenized set" and not result.seq_length_was_given:
        words = ("seqpack", "show", prefix)
    _report(result, forecast, console, command_line(*words))
    if result.longest:
        key, tokens = result.longest[0]
        console.warn(
            "SP108",
            f"{count(result.num_longer, 'sample')} would not fit --seq-length {result.seq_length:,}; "
            f"the longest, {key}, has {tokens:,} tokens",
        )
    console.result(result.to_dict())


def _report(result: Stats, forecast: ForecastOptions, console: Console, following: str) -> None:
    from seqpack.report.datasets import ledger_table
    from seqpack.report.statistics import stats_screen

    plotted = _plot(result, forecast.plot) if forecast.plot else ""
    console.print(*stats_screen(result), ledger_table(result.ledger))
    if plotted:
        console.note(plotted)
    if following:
        console.note(f"next: {following}")


def _check_plot(path: Path) -> None:
    from seqpack.report.charts import check_chart

    check_chart(path)


def _plot(result: Stats, path: Path) -> str:
    from seqpack.report.charts import write_chart

    return write_chart(path, result)


def _characters(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    forecast: ForecastOptions,
    console: Console,
    *,
    is_set: bool,
) -> None:
    from seqpack.core.errors import ConfigError
    from seqpack.options.check import refuse_all
    from seqpack.pipeline.characters import characters
    from seqpack.pipeline.row_sample import parse_share
    from seqpack.report.inputs import report_inputs
    from seqpack.report.statistics import characters_screen

    if is_set:
        raise ConfigError(
            "SP028", "--characters would do nothing: a set holds tokens, not text", help="name the raw files"
        )
    why = {"because": "--characters counts no tokens", "help": "leave one of them out"}
    refuse_all(text, **why)
    refuse_all(length, **why)
    refuse_all(forecast, "seed", "sample", "characters", **why)
    share = parse_share(forecast.sample)
    found = characters(input, share=share, seed=forecast.seed, progress=console.progress, say=console.note)
    report_inputs(console, input.input, [Path(file) for file in found.files])
    console.print(*characters_screen(found))
    console.result({"characters": found.to_dict()})
