"""Command lines that people copy: README, command docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest

from seqpack.cli.app import LAZY_COMMANDS, load_command

README = Path(__file__).parent.parent / "README.md"
WRONG_ON_PURPOSE = "AlpacaStyleInstructonHandler"


def readme_lines() -> list[str]:
    lines = re.findall(r"^\$ (seqpack .*)$", README.read_text("utf-8"), re.MULTILINE)
    return [line for line in lines if WRONG_ON_PURPOSE not in line]


def examples(name: str) -> list[str]:
    """The command lines that the help of a command shows."""
    command = getattr(importlib.import_module(f"seqpack.commands.{name}"), name)
    lines = (inspect.getdoc(command) or "").partition("Examples:\n")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def docstring_lines() -> list[str]:
    return [line for name in LAZY_COMMANDS for line in examples(name)]


def test_there_are_command_lines() -> None:
    assert len(readme_lines()) >= 6
    assert all(len(examples(name)) >= 3 for name in LAZY_COMMANDS)


@pytest.mark.parametrize("line", [*readme_lines(), *docstring_lines()])
def test_command_line_parses(line: str) -> None:
    words = [word for word in shlex.split(line.partition(" > ")[0], comments=True) if "=" not in word.partition(" ")[0]]
    assert words[0] == "seqpack"
    if words[1:] == ["--version"]:
        return
    arguments = [word for word in words[2:] if not word.endswith(".yaml") and word != "--config"]
    load_command(words[1]).make_context(words[1], arguments, resilient_parsing="--config" in words)


def test_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join(README.read_text("utf-8").splitlines()[:30])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text("utf-8")
    assert not [name for name in LAZY_COMMANDS if f"`{name}`" not in text and f"seqpack {name}" not in text]
