"""What decides the bytes of a data set, by name; and which of it changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

NOT_GIVEN = "not given"

Settings = Mapping[str, Any]
"""JSON values by name. Two runs with equal settings on equal files make equal sets."""


def plain_value(value: Any) -> Any:
    """A value as JSON has it: options become mappings, tuples lists, paths and enumerations text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def differences(before: Settings, now: Settings) -> list[str]:
    """A phrase for each setting that is another one now; empty if all are equal."""
    names = [*now, *(name for name in before if name not in now)]
    pairs = [(name, before.get(name, NOT_GIVEN), now.get(name, NOT_GIVEN)) for name in names]
    return [_phrase(name, old, new) for name, old, new in pairs if old != new]


def _phrase(name: str, before: Any, now: Any) -> str:
    what = name.replace("_", " ")
    if isinstance(before, str) and isinstance(now, str) and "\n" in before + now:
        old, new = before.splitlines(), now.splitlines()
        line = next((number for number, pair in enumerate(zip(old, new, strict=False), 1) if pair[0] != pair[1]), 0)
        return f"{what} (text differs at line {line or min(len(old), len(new)) + 1})"
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return f"{what}: {', '.join(differences(before, now))}"
    return f"{what}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:40]}…{text[-12:]}"
