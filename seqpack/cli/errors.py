"""Errors as a person reads them: code, what was seen, what to do; and the exit code that goes with it."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.exceptions import TyperException

from seqpack.core.errors import SeqpackError
from seqpack.core.suggest import did_you_mean

INTERRUPTED = 130
USAGE = 2


class Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C; the text, if there is one, says what was saved."""


class ReaderGone(Exception):  # noqa: N818 - not an error
    """Whoever read our stdout closed it."""


def report_error(error: Exception, arguments: Sequence[str]) -> int:
    """Print the error to stderr, and to stdout as JSON under ``--json``; returns the exit code."""
    if isinstance(error, Interrupted | typer.Abort):
        print(str(error) or "interrupted: nothing half-written was left behind", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, SeqpackError):
        code, message, help_text, exit_code = error.code, error.message, error.help, error.exit_code
    elif isinstance(error, TyperException):
        code, message, help_text, exit_code = "SP001", *_usage(error), USAGE
    else:
        traceback.print_exception(error)
        print("error: this is a bug in seqpack; please report it with the lines above", file=sys.stderr)
        return 1
    if "--traceback" in arguments:
        traceback.print_exception(error)
    _print(code, message, help_text)
    if "--json" in arguments:
        print(json.dumps({"schema_version": 1, "error": {"code": code, "message": message, "help": help_text}}))
    return exit_code


def _print(code: str, message: str, help_text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble((f"error[{code}]", "bold red"), ": ", message))
    if help_text:
        console.print(Text.assemble(("  help", "bold cyan"), ": ", help_text))
    console.print(Text(f"  more: seqpack explain {code}", style="dim"))


def _usage(error: Any) -> tuple[str, str]:
    """What is wrong with the command line, and the nearest thing that would be right."""
    message = str(getattr(error, "message", error)).rstrip(".")
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option and context and message.startswith("No such option"):
        known = [flag for parameter in context.command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        hint = did_you_mean(option, [flag for flag in known if flag.startswith("--")])
        return f"no such option: {option}", f"{hint} see: {context.command_path} --help".strip()
    if hasattr(error, "format_message"):
        message = error.format_message().rstrip(".")
    message, _, suggestion = message.partition(". Did you mean ")
    hint = f"did you mean {suggestion}" if suggestion else ""
    place = f"see: {context.command_path} --help" if context else ""
    return message, " ".join(part for part in (hint, place) if part)
