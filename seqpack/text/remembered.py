"""What was found out about a tokenizer and need not be found out again, in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

MAX_ENTRIES = 256
"""The oldest are forgotten beyond that."""


class Remembered:
    """A small table of text to text, kept as ``seqpack/NAME.json`` in ``$XDG_CACHE_HOME`` (``~/.cache``).

    It only saves time: a file that cannot be read counts as empty, and failing to write it is no error. Keys must hold
    everything the value depends on.
    """

    def __init__(self, name: str) -> None:
        self._path = _folder() / f"{name}.json"

    def get(self, key: str) -> str | None:
        return self._read().get(key)

    def put(self, key: str, value: str) -> None:
        entries = self._read()
        entries.pop(key, None)
        entries[key] = value
        newest = dict(list(entries.items())[-MAX_ENTRIES:])
        aside = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(newest, indent=1), encoding="utf-8")
            aside.replace(self._path)

    def _read(self) -> dict[str, str]:
        try:
            value = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(value, dict):
            return {}
        return {key: text for key, text in value.items() if isinstance(text, str)}


def _folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(root) if Path(root).is_absolute() else Path.home() / ".cache"  # the standard ignores relative ones
    except RuntimeError:  # no home: a path that cannot be read or written, which is no error here
        base = Path(os.devnull)
    return base / "seqpack"
