"""What all data commands say: the ledger, and a line about a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from seqpack.io.packed import KINDS
from seqpack.report.numbers import count, share
from seqpack.report.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from seqpack.core.ledger import Ledger
    from seqpack.io.manifest import Manifest


def ledger_table(ledger: Ledger) -> Table:
    """Every row and token that was read, and what became of it."""
    table = plain_table(("token ledger", "left"), ("samples", "right"), ("tokens", "right"), ("", "left"))
    for reason, rows in sorted(ledger.rejected.items()):
        table.add_row(Text(f"  rejected: {reason}"), f"{rows:,}", "–", "not counted as read")
    mended = f"{ledger.mended:,} with text that is not Unicode, mended" if ledger.mended else ""
    table.add_row("read", f"{ledger.read.samples:,}", f"{ledger.read.tokens:,}", mended)
    if ledger.repeated.samples or ledger.repeated.tokens:
        more = "more samples, from those that were split; their common beginnings"
        table.add_row("  + repeated", f"{ledger.repeated.samples:,}", f"{ledger.repeated.tokens:,}", more)
    if ledger.truncated.samples:
        table.add_row(
            "  − truncated",
            f"({ledger.truncated.samples:,})",
            f"{ledger.truncated.tokens:,}",
            "these samples are kept, shortened",
        )
    for reason, drop in sorted(ledger.dropped.items()):
        table.add_row(Text(f"  − dropped: {reason}"), f"{drop.samples:,}", f"{drop.tokens:,}")
    kept = f"trained {ledger.trained:,} · context {ledger.context:,}"
    table.add_row("  = kept", f"{ledger.kept.samples:,}", f"{ledger.kept.tokens:,}", kept)
    if ledger.padding:
        elements = ledger.kept.tokens + ledger.padding
        note = f"{share(ledger.padding / elements)} of {elements:,}"
        table.add_row("  + padding", "–", f"{ledger.padding:,}", note)
    return table


def data_set_line(manifest: Manifest) -> str:
    """One line about a set that was just written."""
    if manifest.kind == "pretrain":
        numbers = {key: record.documents for key, record in manifest.texts.items()}
        if len(set(numbers.values())) > 1:  # --compat mindspeed
            return ", ".join(f"{count(number, 'document')} for {key}" for key, number in numbers.items())
        return f"{count(next(iter(numbers.values())), 'document')} for each of: {', '.join(numbers)}"
    if manifest.kind != "sft":
        return f"{manifest.num_rows:,} {KINDS[manifest.kind]}, in the columns {', '.join(manifest.texts)}"
    if not manifest.packed or manifest.seq_length is None:
        return f"{manifest.num_rows:,} sequences, one sample each"
    fill = manifest.ledger.kept.tokens / (manifest.num_rows * manifest.seq_length)
    per_pack = manifest.num_samples / manifest.num_rows
    return (
        f"{count(manifest.num_rows, 'pack')} of {manifest.seq_length:,} · {share(fill)} filled · "
        f"{per_pack:.1f} samples each · {manifest.strategy} · mask {manifest.mask}"
    )
