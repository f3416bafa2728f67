"""The one look of our tables: no lines, bold heads."""

from __future__ import annotations

from rich.table import Table


def plain_table(*columns: tuple[str, str]) -> Table:
    """A table with these columns; the second word of each is ``left`` or ``right``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table
