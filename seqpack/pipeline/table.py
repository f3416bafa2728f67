"""What is known of each tokenized sample, as one flat file: planning and writing read it, memory does not hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import running_sum
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

ROWS_PER_READ = 1 << 16

Table = NDArray[np.void]
"""``[samples]`` of ``SAMPLE``, usually memory-mapped."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Tokenized samples: where each lies in the ``chunks``, pairs of ids and labels (int32 ``[tokens]``)."""

    table: Table
    chunks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    sources: tuple[str, ...]
    has_parts: bool = False
    """Whether some of the samples are only pieces of what the data hold."""

    def __len__(self) -> int:
        return len(self.table)

    def forget_pages(self) -> None:
        """Give back the memory that reading mapped files took."""
        forget_pages(self.table, *(array for chunk in self.chunks for array in chunk))

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
