"""The screen of ``seqpack verify`` and ``seqpack doctor``: a line for each check, and what came of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seqpack.core.check_result import CheckResult

MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗ failed", "bold red"),
    "skipped": ("–", "dim"),
    "warning": ("!", "yellow"),
}


def check_screen(
    on: Mapping[str, str], checks: Sequence[CheckResult], notes: Iterable[str] = ()
) -> list[RenderableType]:
    """What was checked, the table of checks, and notes; a check that failed is red."""
    header = Table.grid(padding=(0, 2))
    for name, value in on.items():
        header.add_row(Text(name, style="bold"), Text(value))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("check", "", "what was seen"):
        table.add_column(name)
    for check in checks:
        mark, style = MARKS[check.outcome]
        is_bad = check.outcome == "failed"
        table.add_row(Text(check.name), Text(mark, style=style), Text(check.seen, style="red" if is_bad else ""))
    return [header, Text(), table, *(Text(f"note: {note}", style="dim") for note in notes)]


def verdict(checks: Sequence[CheckResult], fine: str) -> Text:
    """The last line: ``fine``, or which checks failed."""
    failed = [check.name for check in checks if check.outcome == "failed"]
    return Text(f"failed: {', '.join(failed)}", style="bold red") if failed else Text(fine, style="green")
