"""What a command says about the files it read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqpack.report.console import Console


def report_inputs(console: Console, inputs: Sequence[Path], files: Sequence[Path]) -> None:
    """Warn of what ``--input`` names and was not read, or read twice; ``-v`` lists ``files`` if others than named."""
    from seqpack.io.readers import input_notes

    if list(inputs) != list(files):
        console.detail(f"read {len(files):,} files: {', '.join(map(str, files))}")
    for note in input_notes(inputs, files):
        console.warn(note.code, note.text)
