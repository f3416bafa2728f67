"""Support tickets: ``subject`` and ``body`` ask, ``answer`` replies."""

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.api import ConfigError, Message, RejectError, Sample

PARTS = ("subject", "body", "answer")


class TicketHandler:
    """One exchange per ticket; ``columns`` is the ``--map-keys`` mapping, from parts to names of columns."""

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        self._columns = {part: columns.get(part) or part for part in PARTS}
        if wrong := [part for part in columns if part not in PARTS or columns[part] is None]:
            raise ConfigError("SP010", f"--map-keys: cannot map {wrong[0]!r}", help=f"parts: {', '.join(PARTS)}")

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        subject, body, answer = (self._text(record, self._columns[part]) for part in PARTS)
        if not answer:
            raise RejectError("ticket without an answer")
        yield Sample((Message("user", f"{subject}\n\n{body}".strip()), Message("assistant", answer)))

    def _text(self, record: Mapping[str, Any], column: str) -> str:
        if column not in record:
            raise RejectError(f"no column {column!r}", missing_column=True)
        if not isinstance(record[column], str):
            raise RejectError(f"{column!r} is {type(record[column]).__name__}, not text")
        return str(record[column]).strip()
