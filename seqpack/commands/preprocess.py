"""``seqpack preprocess``."""

from __future__ import annotations

from seqpack.options.compat import CompatOptions, IgnoredOptions, RefusedOptions
from seqpack.options.data import (
    DryRunOptions,
    InputOptions,
    LengthOptions,
    PackOptions,
    TextOptions,
    WorkOptions,
    WriteOptions,
)
from seqpack.options.output import OutputOptions
from seqpack.options.resolved import Resolved


def preprocess(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    dry: DryRunOptions,
    work: WorkOptions,
    compat: CompatOptions,
    ignored: IgnoredOptions,
    refused: RefusedOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Turn raw files into tokens and labels: Megatron .bin/.idx files, packed (--pack, --neat-pack) or plain.
    Pretraining text becomes a file pair for each column of --json-keys, a document in each row.

    Examples:
        seqpack preprocess data.jsonl --tokenizer DIR --seq-length 2048 --neat-pack -o packs/mine
        seqpack preprocess 'docs/*.gz' more.txt --handler text --append-eod --tokenizer DIR -o text/mine
        seqpack preprocess --config run.yaml --seq-length 4096 --dry-run
    """
    from seqpack.pipeline.preprocess import preprocess as run
    from seqpack.report.console import Console
    from seqpack.report.inputs import report_inputs
    from seqpack.report.written import report_result

    console = Console(output)
    for group in (text, pack, compat, ignored):
        for note in group.notes():
            console.note(note)
    options = (input, text, length, pack, write, work, compat)
    if dry.dry_run:
        from seqpack.pipeline.outlook import outlook
        from seqpack.report.outlook import report_outlook

        report_outlook(console, outlook(*options))
        return
    result = run(*options, resolved=resolved.to_yaml(), progress=console.progress, say=console.note)
    report_inputs(console, input.input, result.sources)
    report_result(console, result)
