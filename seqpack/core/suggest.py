"""Did you mean ...? One rule for commands, flags, YAML keys and component names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, compared without regard to case, dashes and underscores."""
    by_key = {_key(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_key(name), by_key, n=1, cutoff=0.6)
    return by_key[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"``, or an empty string when nothing is near."""
    match = nearest(name, known)
    return f"did you mean {match!r}?" if match else ""


def _key(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")
