"""The screen of ``seqpack preprocess --dry-run``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from seqpack.io.packed import KINDS

if TYPE_CHECKING:
    from seqpack.pipeline.outlook import Outlook
    from seqpack.report.console import Console

MOST_FILES = 20


def report_outlook(console: Console, outlook: Outlook) -> None:
    """What a real run would do, and what would stop it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _lines(outlook):
        table.add_row(Text(name, "bold"), Text(value))
    console.print(table)
    for note in outlook.notes:
        console.note(note)
    for warning in outlook.warnings:
        console.warn("SP135", warning)
    console.show("dry run: nothing was written")
    console.result({"dry_run": True, **outlook.to_dict()})


def _lines(outlook: Outlook) -> Iterator[tuple[str, str]]:
    shown = outlook.files[:MOST_FILES]
    for path, size in shown:
        yield "read", f"{path} ({size:,} bytes)"
    if len(outlook.files) > len(shown):
        yield "read", f"and {len(outlook.files) - len(shown):,} more files"
    yield "handler", f"{outlook.handler} ({outlook.handler_reason})"
    yield "gives", "what the data are" if outlook.kind == "undecided" else KINDS[outlook.kind]
    if outlook.template:
        yield "template", outlook.template
    yield "tokenizer", outlook.tokenizer
    if outlook.kind != "pretrain":
        yield "engine", _engine(outlook.tokenizer_engine)
    yield "length", _length(outlook)
    yield "packing", f"{outlook.strategy}, mask {outlook.mask}" if outlook.packed else "none, one sequence each"
    if outlook.compat != "none":
        yield "rules", f"those of {outlook.compat}, to the byte"
    yield "workers", str(outlook.workers or "all cores")
    for path in outlook.outputs:
        yield "write", path


def _engine(name: str) -> str:
    if name == "auto":
        return "auto: a fast one, if it is installed and gives the same ids as tokenizers on the first rows"
    return name


def _length(outlook: Outlook) -> str:
    parts = [f"{outlook.seq_length:,} tokens" if outlook.seq_length else "no limit"]
    if outlook.on_overlong:
        parts.append(f"longer: {outlook.on_overlong}")
    if outlook.append_eod:
        parts.append("the end token is appended")
    return ", ".join([*parts, f"stop if more than {outlook.max_drop:.0%} of the rows are left out"])
