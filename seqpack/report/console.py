"""The one place that prints: tables and notes for people, one JSON object for programs, progress for both."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console as RichConsole
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from seqpack.options.output import OutputOptions

PLAIN_PROGRESS_SECONDS = 5.0
SHOW_BAR_AFTER_SECONDS = 1.0
PLAIN_WIDTH = 140


class Console:
    """People read stderr when ``--json`` claims stdout, else stdout; ``-q`` leaves results, warnings and errors."""

    def __init__(self, output: OutputOptions, *, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.options = output
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr

    @property
    def _human(self) -> RichConsole:
        return _rich(self._stderr if self.options.json else self._stdout)

    @property
    def live(self) -> RichConsole | None:
        """Where a panel may be redrawn in place: a terminal, and not under ``-q``; else None."""
        return self._human if self._human.is_terminal and not self.options.quiet else None

    def print(self, *renderables: RenderableType) -> None:
        """What the user asked to see: tables, pictures. ``--json`` prints the same as data instead."""
        if not self.options.json:
            for renderable in renderables:
                self._human.print(renderable)

    def show(self, text: str) -> None:
        """Plain text the user asked to see, ``[`` and all."""
        self.print(Text(text))

    def note(self, text: str, style: str = "") -> None:
        """One line about what is going on."""
        if not self.options.quiet:
            self._human.print(Text(text, style=style))

    def detail(self, text: str) -> None:
        """One line that only ``-v`` shows."""
        if self.options.verbose:
            self._human.print(Text(text, style="dim"))

    def warn(self, code: str, text: str) -> None:
        """A diagnostic that does not stop the run; ``seqpack explain CODE`` tells more. Always on stderr."""
        _rich(self._stderr).print(f"[yellow]warning\\[{code}][/yellow]: ", end="")
        _rich(self._stderr).print(Text(text))

    def result(self, value: dict[str, Any]) -> None:
        """The outcome as data: printed under ``--json``, else ignored."""
        if self.options.json:
            print(json.dumps({"schema_version": 1, **value}, ensure_ascii=False, allow_nan=False), file=self._stdout)

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Yield ``advance(n)``: a bar on a terminal, a line every few seconds elsewhere, nothing if it is quick."""
        if self.options.quiet:
            yield lambda n: None
        elif self._human.is_terminal:
            with self._bar(label, total, unit) as advance:
                yield advance
        else:
            yield _PlainProgress(self._human, label, total, unit).advance

    @contextlib.contextmanager
    def _bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
        bar = Progress(*columns, console=self._human, transient=True)
        task = bar.add_task(label, total=total)
        started = time.monotonic()

        def advance(n: int) -> None:
            bar.advance(task, n)
            if not bar.live.is_started and time.monotonic() - started > SHOW_BAR_AFTER_SECONDS:
                bar.start()

        try:
            yield advance
        finally:
            bar.stop()


class _PlainProgress:
    def __init__(self, console: RichConsole, label: str, total: int | None, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._done = 0
        self._due = time.monotonic() + PLAIN_PROGRESS_SECONDS

    def advance(self, n: int) -> None:
        self._done += n
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + PLAIN_PROGRESS_SECONDS
            of_total = f" of {self._total:,}" if self._total else ""
            self._console.print(f"{self._label}: {self._done:,}{of_total} {self._unit}".rstrip(), highlight=False)


class _RichConsole(RichConsole):
    def on_broken_pipe(self) -> None:
        # rich would end the process with exit code 1; `seqpack stats ... | head` is not an error.
        raise BrokenPipeError


def _rich(file: TextIO) -> RichConsole:
    # Where nobody sees line ends, tables get room and sentences are not broken.
    return _RichConsole(file=file) if file.isatty() else _RichConsole(file=file, width=PLAIN_WIDTH, soft_wrap=True)
