"""Reading columns that have fixed names."""

from collections.abc import Mapping
from typing import Any

from seqpack.api import ConfigError, RejectError


def check_no_columns(columns: Mapping[str, Any]) -> None:
    """ConfigError for ``--map-keys``: these data sets have one form."""
    if columns:
        raise ConfigError("SP020", "this handler does not use --map-keys", help="its columns have fixed names")


def text(record: Mapping[str, Any], column: str, *, may_be_empty: bool = False) -> str:
    """The text of a column; RejectError if it is not there, not text, or empty."""
    if column not in record:
        raise RejectError(f"no column {column!r}", missing_column=True)
    value = "" if record[column] is None else record[column]
    if not isinstance(value, str):
        raise RejectError(f"{column!r} is {type(value).__name__}, not text")
    if not (may_be_empty or value.strip()):
        raise RejectError(f"empty {column!r}")
    return value
