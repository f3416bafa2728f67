"""Alpaca rows: ``instruction``, ``input``, ``output``, and optionally ``system`` and ``history``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.suggest import did_you_mean
from seqpack.core.types import Message, Sample

COLUMNS: dict[str, str] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
"""What each part of a sample is called in the data, unless ``--map-keys`` says otherwise."""

REQUIRED = ("prompt", "response")


class AlpacaHandler:
    """One conversation per row; the user's turn is ``instruction``, a newline, ``input`` (empty parts left out).

    ``columns`` maps the parts prompt, query, response, system, history to column names; None switches a part off.
    ``history`` holds pairs of earlier user and assistant turns. A row without instruction or output is rejected.
    """

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        for part in columns:
            if part not in COLUMNS:
                hint = did_you_mean(part, COLUMNS)
                raise ConfigError(
                    "SP010",
                    f"--map-keys: no part {part!r} in an Alpaca row",
                    help=f"{hint} parts: {', '.join(COLUMNS)}".strip(),
                )
        if off := [part for part in REQUIRED if columns.get(part, part) is None]:
            raise ConfigError("SP010", f"--map-keys: {off[0]!r} cannot be switched off", help="name its column")
        self._columns: dict[str, str | None] = {**COLUMNS, **columns}
        self._mapped = set(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        prompt, query = self._text(record, "prompt"), self._text(record, "query")
        response, system = self._text(record, "response"), self._text(record, "system")
        if not response:
            raise RejectError(f"empty {self._columns['response']!r}")
        user = "\n".join(part for part in (prompt, query) if part)
        if not user:
            raise RejectError(f"empty {self._columns['prompt']!r}")
        messages = [Message("system", system)] if system else []
        messages += self._history(record)
        messages += [Message("user", user), Message("assistant", response)]
        yield Sample(tuple(messages))

    def _text(self, record: Mapping[str, Any], part: str) -> str:
        value = self._value(record, part)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RejectError(f"{self._columns[part]!r} is {type(value).__name__}, not text")
        return value

    def _value(self, record: Mapping[str, Any], part: str) -> Any:
        column = self._columns[part]
        if column is None:
            return None
        if column not in record and (part in REQUIRED or part in self._mapped):
            raise RejectError(f"no column {column!r}", missing_column=True)
        return record.get(column)

    def _history(self, record: Mapping[str, Any]) -> list[Message]:
        messages: list[Message] = []
        history = self._value(record, "history") or ()
        for turn in history if isinstance(history, list | tuple) else (history,):
            if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
                raise RejectError(f"{self._columns['history']!r} is not a list of [user, assistant] pairs of text")
            messages += [Message("user", turn[0]), Message("assistant", turn[1])]
        return messages
