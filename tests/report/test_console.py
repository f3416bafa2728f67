"""Who reads what: people one stream, programs the other."""

from __future__ import annotations

import io
import json

import pytest
from rich.table import Table

from seqpack.options.output import OutputOptions
from seqpack.report import console as console_module
from seqpack.report.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Streams:
    """A console and what it wrote."""

    def __init__(self, kind: type[io.StringIO] = io.StringIO, **options: bool) -> None:
        self._out, self._err = kind(), kind()
        self.console = Console(OutputOptions(**options), stdout=self._out, stderr=self._err)

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def err(self) -> str:
        return self._err.getvalue()


def say_everything(**options: bool) -> Streams:
    streams = Streams(**options)
    streams.console.show("asked for")
    streams.console.note("a note")
    streams.console.detail("a detail")
    streams.console.warn("SP102", "look out")
    streams.console.result({"rows": 3})
    return streams


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ({}, "asked for\na note\n"),
        ({"quiet": True}, "asked for\n"),
        ({"verbose": True}, "asked for\na note\na detail\n"),
    ],
)
def test_people_read_stdout_and_warnings_on_stderr(options, out):
    streams = say_everything(**options)
    assert (streams.out, streams.err) == (out, "warning[SP102]: look out\n")


def test_under_json_stdout_is_one_object():
    streams = say_everything(json=True, verbose=True)
    assert json.loads(streams.out) == {"schema_version": 1, "rows": 3}
    assert streams.out.count("\n") == 1
    assert streams.err == "a note\na detail\nwarning[SP102]: look out\n"


def test_json_keeps_letters_and_refuses_what_is_not_json():
    streams = Streams(json=True)
    streams.console.result({"file": "größe.jsonl"})
    assert "größe.jsonl" in streams.out
    with pytest.raises(ValueError, match="JSON"):
        streams.console.result({"loss": float("nan")})


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/a]", "a[0]", ":smile:"])
def test_text_of_the_data_is_not_markup(text):
    streams = Streams(verbose=True)
    for say in (streams.console.show, streams.console.note, streams.console.detail):
        say(text)
    streams.console.warn("SP102", text)
    assert streams.out == f"{text}\n" * 3
    assert streams.err == f"warning[SP102]: {text}\n"


def test_long_lines_are_not_broken_where_nobody_sees_line_ends():
    streams = Streams()
    streams.console.note("word " * 100)
    streams.console.show("word " * 100)
    assert streams.out.count("\n") == 2


def test_tables_are_printed():
    streams = Streams()
    table = Table("name", "rows")
    table.add_row("greedy", "12")
    streams.console.print(table, "and text")
    assert "greedy" in streams.out and "12" in streams.out and "and text" in streams.out


def test_progress_of_quick_work_is_silent():
    streams = Streams()
    with streams.console.progress("read", total=10, unit="rows") as advance:
        advance(10)
    assert streams.out == streams.err == ""


def test_progress_of_slow_work_is_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    streams = Streams()
    with streams.console.progress("read", total=2000, unit="rows") as advance:
        for second in range(12):
            now[0] = float(second)
            advance(100)
    assert streams.out == "read: 600 of 2,000 rows\nread: 1,100 of 2,000 rows\n"


def test_progress_is_not_shown_when_quiet(monkeypatch):
    monkeypatch.setattr(console_module, "PLAIN_PROGRESS_SECONDS", 0.0)
    streams = Streams(quiet=True)
    with streams.console.progress("read") as advance:
        advance(10)
    assert streams.out == streams.err == ""


@pytest.mark.parametrize(("delay", "is_shown"), [(0.0, True), (1e9, False)])
def test_a_terminal_gets_a_bar_when_it_takes_long(monkeypatch, delay, is_shown):
    monkeypatch.setattr(console_module, "SHOW_BAR_AFTER_SECONDS", delay - 1)
    monkeypatch.setenv("TERM", "xterm")
    streams = Streams(Terminal)
    with streams.console.progress("tokenize", total=10, unit="rows") as advance:
        advance(4)
    assert ("tokenize" in streams.out) == is_shown
