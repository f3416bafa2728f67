"""Parts of files that can be read independently, in an order that puts the rows where they stand in the files.

JSON Lines are cut on line borders, Parquet between row groups; every other kind of file is one shard. Records keep the
numbers of their lines, so nobody can tell from them how the data were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpack.io.readers import Record, read_records
from seqpack.io.readers.arrow_rows import read_parquet, row_groups
from seqpack.io.readers.json_rows import read_json_lines
from seqpack.io.readers.record import Part

SHARD_BYTES = 4 << 20
"""Many more shards than workers, so that long rows in one place do not leave the others idle at the end."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of one file from line ``first_line`` on; ``number`` is that of the file.

    ``start`` and ``end`` are bytes of a JSON Lines file and row groups of a Parquet file; ``end`` None is the end.
    """

    file: Path
    number: int
    first_line: int = 1
    start: int = 0
    end: int | None = None

    @property
    def key(self) -> str:
        return f"{self.file}:{self.first_line}"


def whole_files(files: Sequence[Path]) -> Iterator[Shard]:
    """One shard per file."""
    return (Shard(file, number) for number, file in enumerate(files))


def cut(files: Sequence[Path]) -> Iterator[Shard]:
    """Shards of about ``SHARD_BYTES``, found as they are asked for; DataError for a file that cannot be read."""
    for number, file in enumerate(files):
        if file.suffix == ".jsonl" and file.stat().st_size > SHARD_BYTES:
            yield from _cut_lines(file, number)
        elif file.suffix == ".parquet" and file.stat().st_size > SHARD_BYTES:
            yield from _cut_row_groups(file, number)
        else:
            yield Shard(file, number)


def estimate(files: Iterable[Path]) -> int:
    """About how many shards ``cut`` will find."""
    splittable = (".jsonl", ".parquet")
    return sum(1 + (file.stat().st_size // SHARD_BYTES if file.suffix in splittable else 0) for file in files)


def read_shard(shard: Shard, *, wanted: Callable[[int], bool] | None = None) -> Iterator[Record]:
    """As ``read_records``, for the rows of the shard, and of those only the ``wanted`` line numbers."""
    if wanted is None:
        return _read_all(shard)
    if shard.file.suffix == ".jsonl":  # what is not wanted need not be parsed, which takes most of the time
        return read_json_lines(shard.file, Part(shard.first_line, shard.start, shard.end), wanted=wanted)
    return (record for record in _read_all(shard) if wanted(record.line))


def _read_all(shard: Shard) -> Iterator[Record]:
    if (shard.start, shard.end) == (0, None):
        return read_records(shard.file)
    read = read_json_lines if shard.file.suffix == ".jsonl" else read_parquet
    return read(shard.file, Part(shard.first_line, shard.start, shard.end))


def _cut_lines(path: Path, number: int) -> Iterator[Shard]:
    start, line = 0, 1
    with path.open("rb") as file:
        while block := file.read(SHARD_BYTES):
            rest = b"" if block.endswith(b"\n") else file.readline()
            end = start + len(block) + len(rest)
            yield Shard(path, number, line, start, end)
            start, line = end, line + block.count(b"\n") + rest.endswith(b"\n")


def _cut_row_groups(path: Path, number: int) -> Iterator[Shard]:
    start, line, size, rows = 0, 1, 0, 0
    groups = row_groups(path)
    if not groups:
        yield Shard(path, number)
    for group, (num_rows, num_bytes) in enumerate(groups):
        size, rows = size + num_bytes, rows + num_rows
        if size >= SHARD_BYTES or group == len(groups) - 1:
            yield Shard(path, number, line, start, group + 1)
            start, line, size, rows = group + 1, line + rows, 0, 0
