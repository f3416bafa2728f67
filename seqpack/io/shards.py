"""Parts of files that can be read independently, in an order that puts the rows where they stand in the files.

JSON Lines are cut on line borders, Parquet between row groups; every other kind of file is one shard. Records keep the
numbers of their lines, so nobody can tell from them how the data were cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from seqpack.io.readers import Record, read_records
from seqpack.io.readers.arrow_rows import read_parquet, row_groups
from seqpack.io.readers.json_rows import read_json_blocks
from seqpack.io.readers.record import Part
from seqpack.io.readers.streams import unreadable

SHARD_BYTES = 4 << 20
"""Many more shards than workers, so that long rows in one place do not leave the others idle at the end."""

MOST_SHARDS = 1024
"""Larger data are cut into larger shards instead of more."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of one file from line ``first_line`` on; ``number`` is that of the file, ``index`` that of the shard.

    ``start`` and ``end`` are bytes of a JSON Lines file and row groups of a Parquet file; ``end`` None is the end.
    ``digest`` is the SHA-256 of the file up to the end of a shard of JSON Lines, of the whole file in other kinds.
    No more than ``num_rows`` rows count.
    """

    file: Path
    number: int
    first_line: int = 1
    start: int = 0
    end: int | None = None
    index: int = 0
    digest: str = ""
    num_rows: int | None = None

    @property
    def key(self) -> str:
        return f"{self.file}:{self.first_line}"


def whole_files(files: Sequence[Path]) -> Iterator[Shard]:
    """One shard per file, without digests."""
    return (Shard(file, number) for number, file in enumerate(files))


def cut(files: Sequence[Path]) -> Iterator[Shard]:
    """All shards in order, found as they are asked for: the same for the same files, whoever asks.

    DataError for a file that cannot be read.
    """
    size = shard_bytes(files)
    index = 0
    for number, file in enumerate(files):
        for shard in _cut_file(file, number, size, index):
            yield shard
            index += 1


def shard_bytes(files: Iterable[Path]) -> int:
    """About how large shards are."""
    return max(SHARD_BYTES, sum(file.stat().st_size for file in files) // MOST_SHARDS)


def estimate(files: Sequence[Path]) -> int:
    """About how many shards ``cut`` will find."""
    size = shard_bytes(files)
    splittable = (".jsonl", ".parquet")
    return sum(1 + (file.stat().st_size // size if file.suffix in splittable else 0) for file in files)


def read_shard(shard: Shard, *, wanted: Callable[[int], bool] | None = None) -> Iterator[Record]:
    """As ``read_records``, for the rows of the shard, and of those only the ``wanted`` line numbers."""
    return islice(chain.from_iterable(read_blocks(shard, wanted=wanted)), shard.num_rows)


def read_blocks(shard: Shard, *, wanted: Callable[[int], bool] | None = None) -> Iterator[list[Record]]:
    """As ``read_shard``, some records at a time: of JSON Lines a bounded number of bytes, of other kinds one.

    It takes no notice of ``num_rows``.
    """
    part = Part(shard.first_line, shard.start, shard.end)
    if shard.file.suffix == ".jsonl":  # what is not wanted need not be parsed, which takes most of the time
        return read_json_blocks(shard.file, part, wanted=wanted)
    records = read_records(shard.file) if (shard.start, shard.end) == (0, None) else read_parquet(shard.file, part)
    return ([record] for record in records if wanted is None or wanted(record.line))


def _cut_file(path: Path, number: int, size: int, index: int) -> Iterator[Shard]:
    if path.suffix == ".jsonl":
        yield from _cut_lines(path, number, size, index)
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, "its beginning", error) from error
    if path.suffix == ".parquet" and path.stat().st_size > size:
        yield from _cut_row_groups(path, number, size, index, digest)
    else:
        yield Shard(path, number, index=index, digest=digest)


def _cut_lines(path: Path, number: int, size: int, index: int) -> Iterator[Shard]:
    start, line = 0, 1
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while (block := file.read(size)) or not start:
                rest = b"" if block.endswith(b"\n") else file.readline()
                digest.update(block)
                digest.update(rest)
                end = start + len(block) + len(rest)
                yield Shard(path, number, line, start, end, index, digest.hexdigest())
                start, line, index = end, line + block.count(b"\n") + rest.endswith(b"\n"), index + 1
                if not block:
                    break
    except OSError as error:
        raise unreadable(path, f"line {line}", error) from error


def _cut_row_groups(path: Path, number: int, size: int, index: int, digest: str) -> Iterator[Shard]:
    start, line, held, rows = 0, 1, 0, 0
    groups = row_groups(path)
    if not groups:
        yield Shard(path, number, index=index, digest=digest)
    for group, (num_rows, num_bytes) in enumerate(groups):
        held, rows = held + num_bytes, rows + num_rows
        if held >= size or group == len(groups) - 1:
            yield Shard(path, number, line, start, group + 1, index, digest)
            start, line, held, rows, index = group + 1, line + rows, 0, 0, index + 1
