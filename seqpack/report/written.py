"""What a command says after it wrote a data set."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from seqpack.io.packed import COLUMNS
from seqpack.report.datasets import data_set_line, ledger_table
from seqpack.report.numbers import count

if TYPE_CHECKING:
    from seqpack.pipeline.output import DataSetResult, PartsResult, Result
    from seqpack.report.console import Console


def report_result(console: Console, result: Result) -> None:
    """A data set, or a share of the data on its way to one."""
    from seqpack.pipeline.output import PartsResult

    if isinstance(result, PartsResult):
        report_parts(console, result)
    else:
        report_data_set(console, result)


def report_parts(console: Console, result: PartsResult) -> None:
    """What was done of the data, and how to make the set when all of it is."""
    index, shares = result.share
    _report_text(console, result)
    console.show(f"share {index} of {shares} is done: {result.folder} has {count(result.num_parts, 'finished part')}")
    console.note(f"when all {shares} shares are done: seqpack merge {result.prefix}")
    console.result(
        {
            "prefix": str(result.prefix),
            "parts": str(result.folder),
            "shard_index": index,
            "num_shards": shares,
            "finished_parts": result.num_parts,
        }
    )


def report_data_set(console: Console, result: DataSetResult) -> None:
    """Ledger, a line about the packs, warnings, and the names of the files."""
    manifest, ledger, paths = result.manifest, result.ledger, result.paths
    console.print(ledger_table(ledger))
    console.show(data_set_line(manifest))
    if lost := ledger.num_rejected + ledger.all_dropped.samples:
        console.warn("SP102", f"{count(lost, 'row')} left out, named in {paths.rejects}")
    if ledger.mended:
        console.warn("SP115", f"{count(ledger.mended, 'row')} had text that is not Unicode, named in {paths.rejects}")
    if ledger.truncated.samples:
        console.warn(
            "SP111",
            f"{count(ledger.truncated.samples, 'sample')} lost {count(ledger.truncated.tokens, 'token')}, named in "
            f"{paths.rejects}",
        )
    if ledger.repeated.samples:
        samples, tokens = count(ledger.repeated.samples, "more sample"), count(ledger.repeated.tokens, "token")
        console.note(f"{samples} by --on-overlong split, {tokens} repeated; named in {paths.rejects}")
    if result.duplicates:
        console.warn("SP140", f"{count(result.duplicates, 'sample')} stand in the data before already: --dedup exact")
    _report_text(console, result)
    columns = COLUMNS if manifest.kind == "sft" else tuple(manifest.texts)
    names = columns[0] if len(columns) == 1 else f"{{{','.join(columns)}}}"
    if result.is_unchanged:
        console.show(f"up to date: {paths.manifest} was made of the same files with the same options")
    else:
        console.show(f"wrote {paths.column(names)}.{{bin,idx}}, {paths.manifest}")
    console.result(
        {
            "prefix": str(paths.prefix),
            "manifest": str(paths.manifest),
            "kind": manifest.kind,
            "texts": {key: dataclasses.asdict(record) for key, record in manifest.texts.items()},
            "packed": manifest.packed,
            "seq_length": manifest.seq_length,
            "strategy": manifest.strategy,
            "mask": manifest.mask,
            "up_to_date": result.is_unchanged,
            "duplicates": result.duplicates,
            "rows": manifest.num_rows,
            "samples": manifest.num_samples,
            "tokenizer_engine": manifest.recipe.get("tokenizer_engine"),
            "ledger": ledger.to_dict(),
        }
    )


def _report_text(console: Console, result: Result) -> None:
    """What there is to say about template, labels and engine."""
    if result.note:
        console.note(result.note)
    for finding in result.findings:
        console.warn(finding.code, finding.text)
    if engine := result.engine:
        console.note(f"tokenized with {engine.label} ({engine.reason})")
        if engine.refused:
            console.warn("SP118", f"a faster tokenizer engine was not used: {engine.refused}")
