"""Screens of the data commands: ledger, length statistics, one pack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from seqpack.io.packed import KINDS
from seqpack.report.numbers import bar, count, share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seqpack.core.ledger import Ledger
    from seqpack.io.manifest import Manifest
    from seqpack.pipeline.show import ShownPack
    from seqpack.pipeline.stats import Stats

BAR_WIDTH = 28
SHADES = " ░▒▓█"


def ledger_table(ledger: Ledger) -> Table:
    """Every row and token that was read, and what became of it."""
    table = _table(("token ledger", "left"), ("samples", "right"), ("tokens", "right"), ("", "left"))
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


def stats_screen(stats: Stats) -> Iterator[RenderableType]:
    """Totals, histogram, cost of every layout, warnings."""
    ledger = stats.ledger
    trained = share(ledger.trained / ledger.kept.tokens)
    quantiles = " · ".join(f"{name} {value:,}" for name, value in stats.quantiles.items())
    yield Text(
        f"{count(ledger.read.samples, 'sample')} · {count(len(stats.files), 'file')} · handler "
        f"{stats.handler} · template {stats.prompt_type} · {stats.engine}\n"
        f"{stats.num_tokens:,} tokens · {trained} trained on · mean {stats.mean:,.0f} · {quantiles} · max "
        f"{stats.maximum:,}\n"
    )
    yield _histogram(stats)
    given = "" if stats.seq_length_was_given else " (suggested)"
    yield Text(f"\nWhat each layout would cost at --seq-length {stats.seq_length:,}{given}, one epoch")
    yield _layouts(stats)
    yield Text(f"no packing can need fewer than {stats.fewest_rows:,} rows\n", style="dim")


def pack_screen(pack: ShownPack, *, mask: bool) -> Iterator[RenderableType]:
    """The samples of a pack, its tokens if they were asked for, and the picture of its mask."""
    total = pack.num_tokens + pack.num_padding
    yield Text(
        f"pack {pack.row} of {pack.num_rows:,} · {count(len(pack.samples), 'sample')} · "
        f"{pack.num_tokens:,} / {total:,} tokens · padding {pack.num_padding:,} · mask {pack.mask} · "
        f"attends {share(pack.attended_share)} of a full triangle"
    )
    yield _samples(pack)
    if pack.tokens:
        yield _tokens(pack)
    if mask:
        yield Text(f"mask: rows attend to columns; a cell is {total / len(pack.picture):.4g} tokens", style="dim")
        yield Text("\n".join(_mask_lines(pack)))
    if pack.tokenizer_note:
        yield Text(pack.tokenizer_note, style="yellow")


def _histogram(stats: Stats) -> Table:
    table = _table(("tokens/sample", "right"), ("", "left"), ("samples", "right"), ("cumulated", "right"))
    largest = max(bucket.samples for bucket in stats.histogram)
    for bucket in stats.histogram:
        mark = "  ◂ seq-length" if bucket.low <= stats.seq_length <= bucket.high else ""
        filled = bar(bucket.samples, largest, width=BAR_WIDTH)
        table.add_row(f"{bucket.low:,}-{bucket.high:,}", filled, f"{bucket.samples:,}", share(bucket.share) + mark)
    return table


def _layouts(stats: Stats) -> Table:
    table = _table(
        ("layout", "left"), ("rows", "right"), ("filled", "right"), ("tokens computed", "right"), ("", "right")
    )
    for layout in stats.layouts:
        best = layout.versus_best == 1
        row = (
            layout.name,
            f"{layout.rows:,}",
            share(layout.fill),
            f"{layout.elements:,}",
            f"{layout.versus_best:.2f}x",
        )
        table.add_row(*row, style="bold" if best else "")
    return table


def _samples(pack: ShownPack) -> Table:
    table = _table(("#", "right"), ("sample", "left"), ("tokens", "right"), ("trained", "right"), ("place", "right"))
    table.add_column("begins with", overflow="ellipsis", no_wrap=True, max_width=60)
    for sample in pack.samples:
        place = f"{sample.first:,}-{sample.first + sample.num_tokens - 1:,}"
        counts = (f"{sample.num_tokens:,}", f"{sample.num_targets:,}", place)
        table.add_row(str(sample.number), Text(sample.key.rpartition("/")[2]), *counts, Text(sample.text))
    return table


def _tokens(pack: ShownPack) -> Table:
    table = _table(
        ("index", "right"),
        ("id", "right"),
        ("text", "left"),
        ("predicts", "right"),
        ("position", "right"),
        ("segment", "right"),
    )
    for token in pack.tokens:
        trained = token.label >= 0
        predicts = "" if token.target is None else str(token.target)
        text = Text(repr(token.text)[1:-1], style="green" if trained else "dim")
        table.add_row(str(token.index), str(token.token_id), text, predicts, str(token.position), str(token.segment))
    return table


def _mask_lines(pack: ShownPack) -> Iterator[str]:
    """One character per cell, doubled so that cells look square; a diagonal cell is half full at most."""
    total = pack.num_tokens + pack.num_padding
    for row, shares in enumerate(pack.picture):
        yield "  " + "".join(_shade(value, row == column) * 2 for column, value in enumerate(shares)).rstrip()
    if pack.num_padding:
        yield f"  (the blank end is {share(pack.num_padding / total)} padding)"


def _shade(value: float, on_diagonal: bool) -> str:
    full = 0.5 if on_diagonal else 1.0
    return SHADES[0 if value == 0 else max(1, min(4, round(4 * value / full)))]


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table
