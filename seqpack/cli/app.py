"""The command line: a group that imports a command only when it is called, and errors as sentences with exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import seqpack
from seqpack.cli.errors import Interrupted, ReaderGone, report_error

LAZY_COMMANDS: dict[str, tuple[str, str]] = {
    "stats": ("Look", "Token lengths of files or of a set, and what every way of packing would cost."),
    "show": ("Look", "One pack: its samples, trained tokens and mask; or where a row or a text is."),
    "preprocess": ("Prepare", "Raw files to tokens and labels, packed or not."),
    "pack": ("Prepare", "Pack a set again without tokenizing, or group raw rows that fill packs."),
    "merge": ("Prepare", "The data set out of parts that several machines made."),
    "train": ("Train", "Train a model on a data set."),
    "verify": (
        "Train",
        "Try on your data and configuration whether packed training is right: nothing leaks, nothing is lost.",
    ),
    "launch": ("Train", "Commands, a Slurm script or a Kubernetes job that start one run on several machines."),
    "convert": ("Weights", "Weights between Hugging Face and Megatron-core."),
    "doctor": ("Meta", "What is on this machine, and whether preparing data and training would work with it."),
    "demo": ("Meta", "The whole road on a small data set, in about two minutes."),
    "plugins": ("Meta", "Handlers, templates and strategies, and the plugins they come from."),
    "explain": ("Meta", "What a diagnostic code means, and what to do."),
    "version": ("Meta", "Versions of seqpack and of what it uses."),
}
"""Name -> help panel and help line, so that nothing is imported to list them. The code is seqpack.commands.<name>."""


class LazyGroup(TyperGroup):
    """Lists commands without importing them; stubs keep suggestions and completion working."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (panel, help_line) in LAZY_COMMANDS.items():
            self.commands[name] = TyperCommand(name=name, help=help_line, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in LAZY_COMMANDS:
            from seqpack.cli.bind import spread_lists, take_over_run

            function = command_function(name)
            command, rest = load_command(name), take_over_run(function, spread_lists(function, rest))
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        # Typer would turn these two into exit codes of its own, before we can say anything.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(str(interrupt)) from interrupt
        except BrokenPipeError as error:
            raise ReaderGone from error


def load_command(name: str) -> Any:
    """The Typer command behind a name, with all its options."""
    from seqpack.cli.bind import bind

    return typer.main.get_command(bind(command_function(name)))


def command_function(name: str) -> Callable[..., None]:
    """The function that does what the command says; importing it imports no more than its options."""
    function: Callable[..., None] = getattr(importlib.import_module(f"seqpack.commands.{name}"), name)
    return function


app = typer.Typer(cls=LazyGroup, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})


def _print_version(value: bool) -> None:
    if value:
        print(seqpack.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Packed sequences for fine-tuning and pretraining: prepare them, look at them, train on them.

    [bold]First steps[/bold]

    [cyan]seqpack stats data.jsonl --tokenizer DIR --seq-length 2048[/cyan]

    [cyan]seqpack preprocess data.jsonl --tokenizer DIR --seq-length 2048 --neat-pack -o packs/mine[/cyan]

    [cyan]seqpack train packs/mine --model DIR --save runs/a[/cyan]
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main() -> NoReturn:
    """Entry point of the ``seqpack`` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="seqpack", standalone_mode=False)
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        # `seqpack stats ... | head` is not an error, but stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report_error(error, arguments)
    return code if isinstance(code, int) else 0  # the exit code of typer.Exit comes back as a value


def _stop(signum: int, frame: object) -> NoReturn:
    """SIGTERM unwinds the stack, so that what is half-written is removed."""
    sys.exit(128 + signum)
