"""How MindSpeed-LLM reads Alpaca rows, for ``--compat mindspeed`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
PARTS = ("prompt", "query", "response", "system", "history")


class MindSpeedAlpacaHandler:
    """``system`` and ``history`` are read only if mapped; an empty reply is trained on as its end token alone.

    A row whose reply is a list of several texts becomes an empty exchange that is trained on, as it does there.
    """

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        if unknown := [part for part in columns if part not in PARTS]:
            raise ConfigError("SP010", f"--map-keys: no part {unknown[0]!r}", help=f"parts: {', '.join(PARTS)}")
        self._columns: dict[str, str | None] = {**COLUMNS, **columns}

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        system = self._value(record, "system")
        opening = [Message("system", system)] if system else []
        replies = self._replies(record)
        if not replies:
            raise RejectError("no reply")
        if len(replies) != 1:
            yield Sample((*opening, Message("user", ""), Message("assistant", "")))
            return
        exchanges = self._value(record, "history") or ()
        earlier = [
            message for user, reply in exchanges for message in (Message("user", user), Message("assistant", reply))
        ]
        asked = [text for part in ("prompt", "query") if (text := self._value(record, part))]
        yield Sample((*opening, *earlier, Message("user", "\n".join(asked)), Message("assistant", replies[0])))

    def _replies(self, record: Mapping[str, Any]) -> list[str]:
        value = self._value(record, "response")
        if isinstance(value, list):
            return [str(reply) for reply in value]
        return [value] if isinstance(value, str) else []

    def _value(self, record: Mapping[str, Any], part: str) -> Any:
        column = self._columns.get(part)
        if not column:
            return None
        if column not in record:
            raise RejectError(f"no column {column!r}", missing_column=True)
        return record[column]
