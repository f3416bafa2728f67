"""Option groups from JSON values, as they were written down by an earlier run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def rebuild(group: type[T], values: Mapping[str, Any]) -> T:
    """The group with these values; its own checks apply. KeyError or TypeError for values of another version."""
    hints = get_type_hints(group)
    fields = dataclasses.fields(group)  # type: ignore[arg-type]
    return group(**{field.name: _typed(hints[field.name], values[field.name]) for field in fields})


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) is list:
        return [_typed(get_args(hint)[0], item) for item in value]
    return Path(value) if hint is Path or Path in get_args(hint) else value
