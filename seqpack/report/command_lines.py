"""Command lines to copy: options that were given, as flags again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpack.options.field import flag_names

NAMES_SHOWN = 4


def given_flags(*groups: Any, leave: Sequence[str] = ()) -> Iterator[str]:
    """Flags and values of all options that are not at their defaults, but those of ``leave`` and positional ones."""
    for group in groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if field.name in leave or field.metadata["positional"] or value == _default(field):
                continue
            flag = flag_names(field)[0]
            if isinstance(value, bool):
                yield flag if value else f"--no-{flag.removeprefix('--')}"
            elif isinstance(value, list):
                yield from (flag, *map(str, value))
            else:
                yield from (flag, str(value))


def command_line(*words: object) -> str:
    """Words as a shell reads them back."""
    return shlex.join(map(str, words))


def set_name(files: Sequence[Path], folder: str = "packs") -> str:
    """A prefix for a set of these files: ``packs/train`` for ``data/train.jsonl.gz``."""
    name = files[0].name.partition(".")[0] if len(files) == 1 else ""
    return f"{folder}/{name if name.isascii() and name.isidentifier() else 'mine'}"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
