"""Which reader belongs to which ending of a file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from seqpack.io.readers.arrow_rows import read_arrow, read_parquet
from seqpack.io.readers.json_rows import read_json, read_json_lines
from seqpack.io.readers.record import Record
from seqpack.io.readers.streams import OPENERS
from seqpack.io.readers.text_rows import read_csv, read_text

Reader = Callable[[Path], Iterator[Record]]

TEXT_READERS: dict[str, Reader] = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".txt": read_text}
BINARY_READERS: dict[str, Reader] = {".parquet": read_parquet, ".arrow": read_arrow}


def reader_of(path: Path) -> Reader | None:
    """The reader for a file of this name, capitals or not; None for a kind that cannot be read."""
    suffix = path.suffix.lower()
    if suffix in OPENERS:
        return TEXT_READERS.get(path.with_suffix("").suffix.lower())
    return TEXT_READERS.get(suffix) or BINARY_READERS.get(suffix)


def read_records(file: Path) -> Iterator[Record]:
    """All rows of a file, in order, in bounded memory; DataError naming file:line where it cannot be read."""
    reader = reader_of(file)
    assert reader is not None, f"{file} did not come from resolve_inputs"
    return reader(file)


def known_kinds() -> str:
    return f"{', '.join((*TEXT_READERS, *BINARY_READERS))}, the first four also with {' or '.join(OPENERS)} behind"
