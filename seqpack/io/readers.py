"""Records out of files, one at a time, each with the line or row it stands on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpack.core.errors import ConfigError, DataError

ROWS_PER_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One row; ``line`` counts from 1. ``value`` is what stands there, which need not be an object."""

    file: Path
    line: int
    value: Any

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}"


def resolve_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The data files that ``inputs`` name; a folder stands for all files in it that can be read, by name.

    Raises DataError for what does not exist, ConfigError for a kind of file that cannot be read.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in READERS and not file.name.startswith("."))
            if not found:
                raise DataError("SP101", f"the folder {path} holds no {known_kinds()} files", help="check --input")
            files += found
        elif not path.exists():
            raise DataError("SP101", f"there is no file or folder {path}", help="check --input")
        elif path.suffix not in READERS:
            raise ConfigError("SP009", f"{path}: cannot read files of this kind", help=f"known kinds: {known_kinds()}")
        else:
            files.append(path)
    return files


def read_records(file: Path) -> Iterator[Record]:
    """All rows of a file, in order, in bounded memory; DataError naming file:line where it cannot be read."""
    return READERS[file.suffix](file)


def known_kinds() -> str:
    return ", ".join(READERS)


def read_jsonl(path: Path, start: int = 0, end: int | None = None, first_line: int = 1) -> Iterator[Record]:
    """Rows of a JSON Lines file; those of the bytes ``start:end``, which are whole lines, if these are given."""
    number = first_line - 1
    left = None if end is None else end - start
    try:
        with path.open("rb") as file:
            file.seek(start)
            for number, line in enumerate(file, first_line):
                if not line.isspace():
                    yield Record(path, number, _parse(line, path, number))
                if left is not None:
                    left -= len(line)
                    if left <= 0:
                        return
    except OSError as error:
        raise DataError(
            "SP103", f"{path}: unreadable after line {number} ({error.strerror})", help="check the file"
        ) from error


def _parse(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line.rstrip())  # without its end, after which JSON's columns count from 1 again
    except ValueError as error:
        reason = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            "SP103", f"{path}:{number} is not valid JSON ({reason})", help="mend or delete that line"
        ) from error
    except RecursionError as error:
        raise DataError("SP103", f"{path}:{number} is nested too deeply", help="mend or delete that line") from error


def read_parquet(path: Path, start: int = 0, end: int | None = None, first_line: int = 1) -> Iterator[Record]:
    """Rows of a Parquet file; those of the row groups ``start:end``, which begin with row ``first_line``, if given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = first_line - 1
    try:
        with pq.ParquetFile(path) as file:
            groups = range(file.num_row_groups)[start:end]
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=list(groups)):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(path, number, value)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError("SP103", f"{path}: unreadable after row {number} ({reason})", help="make it again") from error


def row_groups(path: Path) -> list[tuple[int, int]]:
    """Rows and bytes of each row group of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError("SP103", f"{path}: unreadable after row 0 ({reason})", help="make it again") from error
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {".jsonl": read_jsonl, ".parquet": read_parquet}
