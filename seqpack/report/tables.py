"""The one look of our tables: no lines, bold heads."""

from __future__ import annotations

from rich.table import Table


def plain_table(*columns: tuple[str, str]) -> Table:
    """A table with these columns; the second word of each is ``left`` or ``right``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table


def add_text_column(table: Table, name: str) -> None:
    """A last column of running text: it gets what room the others leave, and is cut off there."""
    table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=1)
    table.expand = True
