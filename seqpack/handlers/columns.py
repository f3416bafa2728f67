"""What handlers share: renaming columns by ``--map-keys``, and reading a text with a reason when there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.suggest import did_you_mean
from seqpack.hooks.specs import Columns


class ColumnMap:
    """Which column holds which part of a sample.

    ``defaults`` names the column of each part unless ``columns`` (``--map-keys``) does; None or "" there switches a
    part off. ``required`` parts cannot be off, and a row without their column is of other data; so is a row without a
    column that was named. Raises ConfigError for parts there are not; ``kind`` says in the message of what.
    """

    def __init__(self, kind: str, defaults: Mapping[str, str], columns: Columns, *, required: tuple[str, ...]) -> None:
        for part, column in columns.items():
            if part not in defaults:
                hint = did_you_mean(part, defaults)
                raise ConfigError(
                    "SP010",
                    f"--map-keys: no part {part!r} in {kind}",
                    help=f"{hint} parts: {', '.join(defaults)}".strip(),
                )
            if not column and part in required:
                raise ConfigError("SP010", f"--map-keys: {part!r} cannot be switched off", help="name its column")
        self._columns: dict[str, Any] = {**defaults, **{part: column or None for part, column in columns.items()}}
        self._expected = {*required, *columns}

    def name(self, part: str) -> str:
        """The column's name, for messages."""
        return self._columns[part] or part

    def column(self, part: str) -> Any:
        """The part's column; None, which is the name of no column, if it is off."""
        return self._columns[part]

    def is_expected(self, part: str) -> bool:
        """Whether a row without the part's column is of other data."""
        return part in self._expected

    def value(self, record: Mapping[str, Any], part: str) -> Any:
        """What stands in the part's column; None if the part is off, or optional and not there."""
        column = self._columns[part]
        if column is None:
            return None
        if column not in record and part in self._expected:
            raise RejectError(f"no column {column!r}", missing_column=True)
        return record.get(column)

    def texts(self, record: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
        """``text`` of several parts; made for every row of the data, so what is usual comes first."""
        found: list[Any] = [record.get(self._columns[part]) for part in parts]
        return found if TEXT.issuperset(map(type, found)) else [self.text(record, part) for part in parts]

    def text(self, record: Mapping[str, Any], part: str) -> str:
        """The same as text, "" for null and for what is not there; RejectError if it is something else."""
        return as_text(self.value(record, part), self.name(part))


TEXT = frozenset({str})
"""For ``TEXT.issuperset(map(type, values))``, the fastest way to see that all values are text."""


def as_text(value: Any, name: str) -> str:
    """``value``, or "" for None; RejectError naming ``name`` if it is neither."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RejectError(f"{name!r} is {type(value).__name__}, not text")
    return value
