"""Screens of ``seqpack show``: a pack, the way of a row, matches of a text, a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from seqpack.core.mask import MaskMode
from seqpack.pipeline.show import one_line
from seqpack.report.numbers import count, share
from seqpack.report.tables import add_text_column, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from seqpack.pipeline.show import ShownPack, ShownToken
    from seqpack.pipeline.shown_documents import ShownRow
    from seqpack.pipeline.trace import Matches, Traced

SHADES = " ░▒▓█"
TEXT_COLUMN, KIND_COLUMN = 2, 6
MOST_TEXT = 32
LINES_AT_A_TIME = 256
STYLES = {
    "context": "dim",
    "trained": "green",
    "special": "black on yellow",
    "special, trained": "bold underline red on yellow",
    "padding": "dim italic",
}
"""What a token is, as the last column of a list of tokens says it, and how its text looks."""


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
        yield from token_list(pack.tokens)
    if mask:
        yield Text(
            f"mask: rows attend to columns; a cell is {total / len(pack.picture):.4g} tokens{_seen(pack)}", style="dim"
        )
        yield Text("\n".join(_mask_lines(pack)))
    if pack.tokenizer_note:
        yield Text(pack.tokenizer_note, style="yellow")


def traced_screen(traced: Traced, num_rows: int) -> Iterator[RenderableType]:
    """Where a row went: its packs and token ranges, and what was lost of it."""
    packs = count(len({place.row for place in traced.places}), "pack")
    yield Text(f"{traced.key} · {f'in {packs} of {num_rows:,}' if traced.places else 'in no pack'}")
    for fate in traced.fates:
        lost = f", {count(fate.tokens, 'token')} lost" if fate.tokens else ""
        yield Text(f"{fate.outcome}: {fate.reason}{lost}", style="yellow")
    if traced.places:
        table = plain_table(*((name, "right") for name in ("pack", "#", "sample", "tokens", "trained", "place")))
        add_text_column(table, "begins with")
        for place in traced.places:
            table.add_row(
                f"{place.row}",
                f"{place.number}",
                f"{place.sample}",
                f"{place.num_tokens:,}",
                f"{place.num_targets:,}",
                f"{place.first:,}-{place.last:,}",
                Text(place.text),
            )
        yield table
    for place in traced.places:
        if place.tokens:
            yield from token_list(place.tokens)
    if traced.tokenizer_note:
        yield Text(traced.tokenizer_note, style="yellow")


def matches_screen(found: Matches) -> Iterator[RenderableType]:
    """The packs and samples that contain a text, with what stands around it."""
    samples, packs = count(found.num_samples, "sample"), count(found.num_rows, "pack")
    yield Text(f"{found.text!r} is in {samples} of {packs}" if found.num_samples else f"{found.text!r} is in no sample")
    if not found.matches:
        return
    table = plain_table(("pack", "right"), ("#", "right"), ("row", "left"), ("token", "right"))
    add_text_column(table, "there")
    for match in found.matches:
        there = Text.assemble((match.before, "dim"), (one_line(found.text), "bold"), (match.after, "dim"))
        table.add_row(f"{match.row}", f"{match.number}", Text(short_key(match.key)), f"{match.token}", there)
    yield table
    if more := found.num_samples - len(found.matches):
        yield Text(f"and {more:,} more; --limit lists more", style="dim")


def document_screen(row: ShownRow) -> Iterator[RenderableType]:
    """One row of a set of pretraining text: the document of every column."""
    yield Text(f"document {row.row} of {row.num_rows:,} · pretraining text: every token is trained on, nothing packed")
    table = plain_table(("column", "left"), ("tokens", "right"))
    add_text_column(table, "begins with")
    for document in row.documents:
        table.add_row(Text(document.key), f"{document.num_tokens:,}", Text(document.text))
    yield table
    for document in row.documents:
        if document.tokens:
            yield Text(document.key, style="bold")
            yield from token_list(document.tokens)
    if row.tokenizer_note:
        yield Text(row.tokenizer_note, style="yellow")


def token_list(tokens: Sequence[ShownToken]) -> Iterator[Text]:
    """Every token with what it is; the text has the colour of that, where there are colours.

    Not a table of rich, which takes half a millisecond for each row.
    """
    names = ("index", "id", "text", "label", "position", "segment", "")
    kinds = [_what(token) for token in tokens]
    rows = [_token_cells(token, what) for token, what in zip(tokens, kinds, strict=True)]
    widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    yield _line(names, widths, ["bold"] * len(names))
    styles = [["", "", STYLES[what], "", "", "", ""] for what in kinds]
    for first in range(0, len(rows), LINES_AT_A_TIME):
        part = slice(first, first + LINES_AT_A_TIME)
        lines = [_line(row, widths, style) for row, style in zip(rows[part], styles[part], strict=True)]
        yield Text("\n").join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> Text:
    """Numbers at the right of their columns, texts at the left."""
    line = Text(no_wrap=True)
    for number, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
        space = " " * (width - cell_len(cell))
        before, after = ("", space) if number in (TEXT_COLUMN, KIND_COLUMN) else (space, "")
        line.append(("  " if number else "") + before).append(cell, style).append(after)
    line.rstrip()
    return line


def _token_cells(token: ShownToken, what: str) -> tuple[str, ...]:
    text = set_cell_size(shown, MOST_TEXT) if cell_len(shown := repr(token.text)[1:-1]) > MOST_TEXT else shown
    label = str(token.label) if token.label >= 0 else "·"
    segment = "·" if token.segment is None else str(token.segment)
    return (str(token.index), str(token.token_id), text, label, str(token.position), segment, what)


def short_key(key: str) -> str:
    """``data/train.jsonl:3`` -> ``train.jsonl:3``."""
    return key.rpartition("/")[2]


def _what(token: ShownToken) -> str:
    if token.segment is None:
        return "padding"
    trained = token.label >= 0
    if token.is_special:
        return "special, trained" if trained else "special"
    return "trained" if trained else "context"


def _samples(pack: ShownPack) -> Table:
    table = plain_table(("#", "right"), ("sample", "left"), ("tokens", "right"), ("trained", "right"))
    table.add_column("place", justify="right")
    add_text_column(table, "begins with")
    for sample in pack.samples:
        place = f"{sample.first:,}-{sample.first + sample.num_tokens - 1:,}"
        counts = (f"{sample.num_tokens:,}", f"{sample.num_targets:,}", place)
        table.add_row(str(sample.number), Text(short_key(sample.key)), *counts, Text(sample.text))
    return table


def _seen(pack: ShownPack) -> str:
    if len(pack.samples) < 2:
        return ""
    if pack.mask is MaskMode.BLOCK_CAUSAL:
        return "; one triangle for each sample"
    return "; one triangle: samples see those before them"


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
