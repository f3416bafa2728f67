"""What a command says after it wrote a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seqpack.io.packed import COLUMNS
from seqpack.report.datasets import data_set_line, ledger_table
from seqpack.report.numbers import count, fine_share, share
from seqpack.report.statistics import copies_line, endings_line

if TYPE_CHECKING:
    from seqpack.pipeline.forecast import Stats
    from seqpack.pipeline.grouping import Grouped
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


def warn_of_losses(console: Console, result: Stats) -> None:
    """What ``preprocess`` would warn of, and more that was seen on the way."""
    if result.note:
        console.note(result.note)
    if result.endings:
        console.note(endings_line(result.endings, result.ledger.kept.samples))
    for finding in result.findings:
        console.warn(finding.code, finding.text)
    for code, text in _lost(result):
        console.warn(code, text)
    if copies := copies_line(result):
        console.warn("SP140", copies)
    if result.ledger.mended:
        console.warn("SP115", f"text that is not Unicode in {count(result.ledger.mended, 'row')}")
    if result.ledger.num_rejected:
        console.warn("SP102", f"{count(result.ledger.num_rejected, 'row')} that cannot be used, see the ledger")


def _lost(result: Stats) -> Iterator[tuple[str, str]]:
    """What would be cut and left out, as code and text; the samples that lose most are named behind the last."""
    ledger, lost = result.ledger, []
    if ledger.truncated.samples:
        samples, tokens = count(ledger.truncated.samples, "sample"), count(ledger.truncated.tokens, "token")
        lost.append(("SP111", f"{samples} longer than --seq-length {result.seq_length:,}: {tokens} would be cut"))
    for reason, drop in sorted(ledger.dropped.items()):
        lost.append(
            ("SP102", f"{count(drop.samples, 'sample')} would be left out ({reason}): {count(drop.tokens, 'token')}")
        )
    named = ", ".join(f"{key} ({tokens:,})" for key, tokens in result.longest)
    for number, (code, text) in enumerate(lost, 1):
        yield code, f"{text}; most of {named}" if named and number == len(lost) else text


def report_groups(console: Console, result: Grouped, following: str) -> None:
    """Ledger, a line about the groups, the names of the files, and what reads them."""
    ledger, layout = result.ledger, result.layout
    console.print(ledger_table(ledger))
    over = fine_share(layout.quality.over) if layout.quality else "–"
    console.show(
        f"{count(result.num_rows, 'row')} in {count(layout.rows, 'group')} of at most "
        f"{layout.elements // layout.rows:,} tokens · {share(layout.fill)} filled · {over} over the bound · "
        f"{result.strategy}"
    )
    if lost := ledger.num_rejected + ledger.all_dropped.samples:
        console.warn("SP102", f"{count(lost, 'row')} left out, named in {result.rejects}")
    if ledger.mended:
        console.warn("SP115", f"{count(ledger.mended, 'row')} had text that is not Unicode, named in {result.rejects}")
    if result.engine.refused:
        console.warn("SP118", f"a faster tokenizer engine was not used: {result.engine.refused}")
    console.show(f"wrote {result.path}")
    console.note(f"next: {following}")
    console.result(
        {
            "path": str(result.path),
            "rejects": str(result.rejects),
            "rows": result.num_rows,
            "strategy": result.strategy,
            "groups": dataclasses.asdict(layout),
            "ledger": ledger.to_dict(),
        }
    )
