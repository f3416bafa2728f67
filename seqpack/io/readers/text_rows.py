"""Plain text and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from seqpack.core.errors import DataError
from seqpack.io.readers import streams
from seqpack.io.readers.record import Record
from seqpack.io.readers.streams import text_lines


def read_text(path: Path) -> Iterator[Record]:
    """One document per line, in the column ``text``; blank lines are passed over."""
    for number, line in text_lines(path):
        if not line.isspace():
            yield Record(path, number, {"text": line.rstrip("\r\n")})


def read_csv(path: Path) -> Iterator[Record]:
    """Comma-separated values under a line of column names. Every value is text, an empty one is "".

    Values in quotes may hold commas, line ends and doubled quotes. A row with too many or too few values is an error.
    """
    # A limit of the process, 128 KiB unless it is raised; pyarrow's reader stops at values longer than its block.
    csv.field_size_limit(streams.MAX_ROW_BYTES)
    rows = csv.reader((line for _, line in text_lines(path)), strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for row in rows:
            if row and names is None:
                names = _column_names(row, path, line)
            elif row and names is not None:
                if len(row) != len(names):
                    raise _wrong_length(row, names, path, line)
                yield Record(path, line, dict(zip(names, row, strict=True)))
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            "SP103", f"{path}:{line} is not valid CSV ({error})", help="check the quotes from that line on"
        ) from error


def _column_names(row: list[str], path: Path, line: int) -> list[str]:
    if repeated := [name for number, name in enumerate(row) if name in row[:number]]:
        raise DataError("SP103", f"{path}:{line}: two columns are called {repeated[0]!r}", help="rename one of them")
    return row


def _wrong_length(row: list[str], names: list[str], path: Path, line: int) -> DataError:
    found = f"{len(row)} value{'s' * (len(row) != 1)}"
    return DataError(
        "SP103",
        f"{path}:{line} has {found} for {len(names)} columns ({', '.join(names)})",
        help="values with commas or line ends in them need quotes",
    )
