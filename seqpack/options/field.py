"""How an option is declared: a dataclass field that also carries its help text and its flags."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    flags: tuple[str, ...] = (),
    min: float | None = None,
    max: float | None = None,
    metavar: str | None = None,
    positional: bool = False,
    short: str | None = None,
    hidden: bool = False,
    negation: bool = True,
    run_folder: bool = False,
) -> Any:
    """Declare one flag, which is also one YAML key, on a frozen dataclass.

    The flag is the field's name with dashes, unless ``flags`` lists its spellings. A ``positional`` option is an
    argument as well as a flag. A ``list`` may be given several times. A bool gets ``--no-NAME`` too, unless
    ``negation`` is False. A ``run_folder`` is an older run, whose options are taken over. Without a default the option
    is required.
    """
    metadata = {
        "help": help,
        "flags": flags,
        "min": min,
        "max": max,
        "metavar": metavar,
        "positional": positional,
        "short": short,
        "hidden": hidden,
        "negation": negation,
        "run_folder": run_folder,
    }
    if isinstance(default, list):
        values = default
        return dataclasses.field(default_factory=lambda: list(values), metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_names(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """All spellings of a field's flag, the canonical one first."""
    long = field.metadata["flags"] or (f"--{field.name.replace('_', '-')}",)
    short = field.metadata["short"]
    return (*long, short) if short else tuple(long)
