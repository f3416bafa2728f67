"""What is known of each tokenized sample, as one flat file: planning and writing read it, memory does not hold it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.types import IGNORE_INDEX, running_sum
from seqpack.io.mapped import forget_pages, map_array
from seqpack.io.packed import PieceIndex

SAMPLE = np.dtype(
    [
        ("sample", "<i8"),
        ("line", "<i8"),
        ("start", "<i8"),
        ("digest", "<u8"),
        ("offset", "<i8"),
        ("length", "<i4"),
        ("num_targets", "<i4"),
        ("file", "<i4"),
        ("chunk", "<i4"),
    ]
)
"""Number of the sample in the whole set, line or row in its file, first token in its chunk, 64 bits of a digest of ids
and labels, first token in its sample (0 unless it is a piece of one), tokens, tokens the loss is computed on, number of
its file, number of its chunk of tokens."""

ROWS_PER_READ = 1 << 14
ROWS_PER_TAKE = 256
MOST_OPEN = 256
SMALL_BYTES = 2 << 20
"""Tables up to this size may stay in memory."""

Table = NDArray[np.void]
"""``[samples]`` of ``SAMPLE``, usually memory-mapped."""


Pieces = Iterable[tuple[int, int, int, int]]
"""Of each: number of its chunk, first token there, tokens, and where they go."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Tokenized samples, and the files they lie in, all int32: a chunk is a file of ids and one of labels, or a single
    file of pairs of both.

    Use it in a ``with``: no more than ``MOST_OPEN`` chunks are open at a time, and none at its end. Samples are read
    where they lie, not mapped: a page of a mapped file brings its neighbours, and so all of the file, into memory.
    """

    table: Table
    chunks: Sequence[tuple[Path, ...]]
    sources: tuple[str, ...]
    has_parts: bool = False
    """Whether some of the samples are only pieces of what the data hold."""
    _files: dict[int, list[int]] = field(default_factory=dict, repr=False)
    """Descriptors of the files of each chunk that is open."""

    def __len__(self) -> int:
        return len(self.table)

    def __enter__(self) -> TokenSource:
        return self

    def __exit__(self, *_: object) -> None:
        for files in self._files.values():
            for file in files:
                os.close(file)
        self._files.clear()

    def gather(self, pieces: Pieces, size: int, pad_token_id: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and labels of the pieces, int32 ``[size]``, padding elsewhere; DataError if a file is too short.

        A read for each piece costs half of an index for each token.
        """
        fill = np.array([pad_token_id, IGNORE_INDEX], np.int32)
        columns = [np.tile(fill, (size, 1))] if self._is_paired else [np.full(size, value, np.int32) for value in fill]
        width = columns[0].nbytes // max(size, 1)
        views = [column.reshape(-1).view(np.uint8).data for column in columns]
        for chunk, start, length, place in pieces:
            begin, end = width * place, width * (place + length)
            for file, view in zip(self._files.get(chunk) or self._open(chunk), views):  # noqa: B905 - for every sample
                if os.preadv(file, [view[begin:end]], width * start) != end - begin:
                    files = ", ".join(map(str, self.chunks[chunk]))
                    raise DataError("SP103", f"{files} was cut off while it was read", help="run again")
        ids, labels = columns[0].T if self._is_paired else columns
        return np.ascontiguousarray(ids), np.ascontiguousarray(labels)

    @property
    def _is_paired(self) -> bool:
        return bool(self.chunks) and len(self.chunks[0]) == 1

    def _open(self, chunk: int) -> list[int]:
        if len(self._files) >= MOST_OPEN:
            self.__exit__()
        self._files[chunk] = []
        for path in self.chunks[chunk]:
            self._files[chunk].append(os.open(path, os.O_RDONLY))
        return self._files[chunk]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sample, int32 ``[samples]``."""
        return column(self.table, "length")


def column(table: Table, name: str) -> NDArray[np.int32]:
    """One column in memory, without the others."""
    values = np.empty(len(table), SAMPLE[name])
    for first, part in table_parts(table):
        values[first : first + len(part)] = part[name]
    return values


def table_parts(table: Table) -> Iterator[tuple[int, Table]]:
    """A bounded number of rows at a time, with the number of the first; their memory is given back."""
    for first in range(0, len(table), ROWS_PER_READ):
        yield first, table[first : first + ROWS_PER_READ]
        forget_pages(table)


def take_rows(table: Table, rows: NDArray[np.integer]) -> Table:
    """These rows, in bounded memory: each may lie on a page of its own, which brings its neighbours with it."""
    taken = np.empty(len(rows), SAMPLE)
    for first in range(0, len(rows), ROWS_PER_TAKE):
        taken[first : first + ROWS_PER_TAKE] = table[rows[first : first + ROWS_PER_TAKE]]
        if table.nbytes > SMALL_BYTES:
            forget_pages(table)
    return taken


def table_of_pieces(pieces: PieceIndex, starts: NDArray[np.int64]) -> Table:
    """The pieces of a set that is one chunk, as samples."""
    table = np.zeros(len(pieces), SAMPLE)
    table["sample"], table["line"], table["start"] = pieces.sample, pieces.line, starts
    table["length"], table["num_targets"], table["file"] = pieces.length, pieces.num_targets, pieces.source
    if pieces.start is not None:
        table["offset"] = pieces.start
    return table


def pieces_of_table(
    table: Table, row: NDArray[np.int64], sources: tuple[str, ...], *, with_start: bool = False
) -> PieceIndex:
    """These samples, one piece each, placed in rows; ``with_start`` if not all of them are whole."""
    return PieceIndex(
        row,
        np.ascontiguousarray(table["sample"]),
        np.ascontiguousarray(table["length"]),
        np.ascontiguousarray(table["num_targets"]),
        np.ascontiguousarray(table["file"]),
        np.ascontiguousarray(table["line"]),
        sources,
        np.ascontiguousarray(table["offset"]) if with_start else None,
    )


def map_table(path: Path) -> Table:
    return map_array(path, SAMPLE, random=True)


def starts_of(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each of many samples back to back begins."""
    return running_sum(lengths)[:-1]
