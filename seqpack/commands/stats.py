"""``seqpack stats``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpack.options.data import InputOptions, LengthOptions, TextOptions, WorkOptions
from seqpack.options.field import option
from seqpack.options.output import OutputOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastOptions:
    """Forecast"""

    seed: int = option(1234, "Seed of the packing strategies.", min=0)


def stats(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    forecast: ForecastOptions,
    work: WorkOptions,
    output: OutputOptions,
) -> None:
    """Token lengths of the data, and what every way of laying them out would cost. Writes nothing.

    Examples:
        seqpack stats data.jsonl --tokenizer DIR
        seqpack stats data/*.parquet --tokenizer DIR --seq-length 4096
        seqpack stats data.jsonl --tokenizer DIR --map-keys '{"prompt": "question", "response": "answer"}' --json
    """
    from seqpack.pipeline.stats import stats as measure
    from seqpack.report.console import Console
    from seqpack.report.datasets import ledger_table, stats_screen
    from seqpack.report.inputs import report_inputs
    from seqpack.report.numbers import count

    console = Console(output)
    workers = work.workers if input.max_samples is None else 1
    result = measure(
        input, text, length, seed=forecast.seed, workers=workers, progress=console.progress, say=console.note
    )
    if result.engine_refused:
        console.warn("SP118", f"a faster tokenizer engine was not used: {result.engine_refused}")
    report_inputs(console, input.input, [Path(file) for file in result.files])
    console.print(*stats_screen(result), ledger_table(result.ledger))
    if result.note:
        console.note(result.note)
    for finding in result.findings:
        console.warn(finding.code, finding.text)
    for key, tokens in result.longest:
        cuts = length.on_overlong in ("truncate", "split")
        lost = "tokens would be cut" if cuts else "tokens would be dropped"
        console.warn("SP111" if cuts else "SP102", f"{key}: {tokens:,} {lost}")
    if result.ledger.mended:
        console.warn("SP115", f"text that is not Unicode in {count(result.ledger.mended, 'row')}")
    if result.ledger.num_rejected:
        console.warn("SP102", f"{count(result.ledger.num_rejected, 'row')} that cannot be used, see the ledger")
    console.result(result.to_dict())
