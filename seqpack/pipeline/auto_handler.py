"""``--handler auto``: the one handler that fits the first rows of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from seqpack.core.errors import DataError
from seqpack.core.progress import Say
from seqpack.handlers.detect import DETECTED, Match, check_parts, detect
from seqpack.hooks.specs import HandlerOptions
from seqpack.io.readers import Record, read_records
from seqpack.io.readers.record import elements

AUTO = "auto"
FIRST_ROWS = 20
"""Rows of each file that are looked at."""


def choose_handler(files: Sequence[Path], options: HandlerOptions, *, pregrouped: bool = False, say: Say) -> str:
    """The one handler that fits the first rows of every file; DataError if a file fits none or several, or they differ.

    Files without rows do not count. A set of several kinds of files is refused: one handler would misread the others.
    """
    options.only("columns", "json_keys", handler=AUTO)
    check_parts(options.columns)
    chosen: dict[str, tuple[Path, Match]] = {}
    for file in files:
        rows = read_records(file)
        records = list(islice(chain.from_iterable(map(elements, rows)) if pregrouped else rows, FIRST_ROWS))
        if records:
            match = _detect(records, options)
            chosen.setdefault(match.handler, (file, match))
    if not chosen:
        raise DataError("SP109", f"no rows in {', '.join(map(str, files))}", help="check --input")
    if len(chosen) > 1:
        kinds = "; ".join(f"{file}: {DETECTED[name]}, {match.why}" for name, (file, match) in chosen.items())
        raise DataError(
            "SP131",
            f"the files are of several kinds ({kinds})",
            help="make a set of each kind on its own, or choose the --handler of all",
        )
    ((name, (_, match)),) = chosen.items()
    say(f"handler {name} ({DETECTED[name]}), because of {match.why}")
    return name


def _detect(records: Sequence[Record], options: HandlerOptions) -> Match:
    rows = [record.value for record in records if isinstance(record.value, Mapping)]
    key = records[0].key
    if not rows:
        kinds = sorted({type(record.value).__name__ for record in records})
        help = "lists of samples that are to share a pack are read with --pregrouped" if "list" in kinds else ""
        raise DataError(
            "SP131", f"{key}: the first rows are {', '.join(kinds)}, not objects", help=help or "check --input"
        )
    matches = detect(rows, options)
    if len(matches) == 1:
        return matches[0]
    columns = list(dict.fromkeys(str(column) for row in rows for column in row))
    found = " and ".join(f"{DETECTED[match.handler]} ({match.why})" for match in matches)
    why = f"several handlers fit: {found}" if matches else "no handler fits"
    raise DataError(
        "SP131",
        f"{key}: {why}; the columns are: {', '.join(columns)}",
        help=f"choose --handler {' | '.join(DETECTED.values())}, or another that seqpack plugins lists; columns of "
        "other names need --map-keys, or --json-keys for text",
    )
