"""Rules between option groups: a flag that would do nothing in this run is an error, not a silent no-op."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.options.field import flag_names


def refuse_idle(group: Any, names: tuple[str, ...], *, because: str, help: str) -> None:
    """ConfigError SP028 for the first of these options that is not at its default."""
    for field in dataclasses.fields(group):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in names and getattr(group, field.name) != default:
            raise ConfigError("SP028", f"{flag_names(field)[0]} would do nothing: {because}", help=help)


def refuse_all(group: Any, *leave: str, because: str, help: str) -> None:
    """As ``refuse_idle``, for all options of the group but those of ``leave``."""
    names = tuple(field.name for field in dataclasses.fields(group) if field.name not in leave)
    refuse_idle(group, names, because=because, help=help)
