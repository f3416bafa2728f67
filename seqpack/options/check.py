"""Rules between option groups: a flag that would do nothing in this run is an error, not a silent no-op."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.options.field import flag_names


def refuse_idle(group: Any, names: tuple[str, ...], *, because: str, help: str) -> None:
    """ConfigError SP028 for the first of these options that is not at its default."""
    for field in dataclasses.fields(group):
        if field.name in names and getattr(group, field.name) != _default(field):
            raise ConfigError("SP028", f"{flag_names(field)[0]} would do nothing: {because}", help=help)


def refuse_all(group: Any, *leave: str, because: str, help: str) -> None:
    """As ``refuse_idle``, for all options of the group but those of ``leave``."""
    names = tuple(field.name for field in dataclasses.fields(group) if field.name not in leave)
    refuse_idle(group, names, because=because, help=help)


def refuse_known(group: Any) -> None:
    """ConfigError SP029 for the first of these options that was given; its help is "why not | what to do instead"."""
    for field in dataclasses.fields(group):
        if (value := getattr(group, field.name)) != _default(field):
            why, _, remedy = field.metadata["help"].partition(" | ")
            flag = flag_names(field)[0]
            shown = flag if isinstance(value, bool | list) else f"{flag} {value}"
            raise ConfigError("SP029", f"{shown} is not supported: {why}", help=remedy)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
