"""Who of a context-parallel group holds which rows of a batch, and what follows from it. numpy alone, on the host.

A batch is one row of T tokens in segments that do not see each other (``core.segments``); a *row* here is one of its
tokens. Everything follows from the boundaries and the number of ranks, so every rank makes the same plan by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqpack.core.segments import cu_seqlens_from_lengths

Rows = NDArray[np.int64]
Interval = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Stretches of rows that follow each other inside one segment, all int64 ``[runs]``.

    A run is the rows ``lo`` up to ``hi`` of the batch, its segment begins at row ``first``, and it begins at place
    ``at`` among the rows of its holder.
    """

    first: Rows
    lo: Rows
    hi: Rows
    at: Rows

    @property
    def lengths(self) -> Rows:
        return self.hi - self.lo

    def first_seen(self, window: int | None) -> Rows:
        """The first row that a query of each run may see."""
        return self.first if window is None else np.maximum(self.first, self.lo - window + 1)


@dataclass(frozen=True, eq=False)
class Placement:
    """``rows[r]`` are the rows that rank r holds, ascending; each row has one holder."""

    cu_seqlens: NDArray[np.int32]
    rows: tuple[Rows, ...]

    @classmethod
    def of(cls, cu_seqlens: NDArray[np.int32], intervals: Sequence[Sequence[Interval]]) -> Placement:
        """From the rows ``(lo, hi)`` of each rank, in any order."""
        return cls(cu_seqlens, tuple(rows_of(sorted(mine)) for mine in intervals))

    @property
    def size(self) -> int:
        return len(self.rows)

    @property
    def num_rows(self) -> int:
        return int(self.cu_seqlens[-1])

    @cached_property
    def holder(self) -> Rows:
        """The rank that holds each row."""
        holder = np.empty(self.num_rows, np.int64)
        for rank, rows in enumerate(self.rows):
            holder[rows] = rank
        return holder

    @cached_property
    def runs(self) -> tuple[Runs, ...]:
        """The runs of each rank, in the order of its rows."""
        return tuple(runs_of(rows, self.cu_seqlens) for rows in self.rows)

    def digest(self, *facts: object) -> bytes:
        """Eight bytes, the same for the same placement of the same segments and the same facts beside it."""
        found = hashlib.blake2b(repr(facts).encode(), digest_size=8)
        found.update(self.cu_seqlens.astype(np.int64).tobytes())
        for rows in self.rows:
            found.update(np.int64(len(rows)).tobytes())
            found.update(rows.tobytes())
        return found.digest()


def rows_of(intervals: Sequence[Interval]) -> Rows:
    """All rows of the intervals, one interval after the other."""
    return np.concatenate([np.arange(lo, hi) for lo, hi in intervals] or [np.zeros(0, np.int64)])


def runs_of(rows: Rows, cu_seqlens: NDArray[np.int32]) -> Runs:
    """Ascending rows, cut where one is missing and where a segment ends."""
    if not len(rows):
        none = np.zeros(0, np.int64)
        return Runs(none, none, none, none)
    segment = np.searchsorted(cu_seqlens, rows, side="right") - 1
    begins = np.flatnonzero((np.diff(rows) != 1) | (np.diff(segment) != 0)) + 1
    at = np.concatenate([[0], begins])
    ends = np.concatenate([begins, [len(rows)]])
    return Runs(cu_seqlens[segment[at]].astype(np.int64), rows[at], rows[ends - 1] + 1, at)


def sizes(total: int, parts: int) -> Rows:
    """``total`` in parts that differ by one at most: sizes(7, 3) -> [2, 2, 3]."""
    return np.diff(total * np.arange(parts + 1) // parts)


def stretches(starts: Rows, lengths: Rows) -> Rows:
    """``starts[i]``, ``starts[i] + 1``, ... for each i, one after the other: [4, 0], [2, 3] -> [4, 5, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def bounds(lengths: Rows) -> NDArray[np.int32]:
    """``cu_seqlens`` of segments of these lengths."""
    return cu_seqlens_from_lengths(lengths)


def pairs(length: int) -> int:
    """(query, key) pairs of a causal segment."""
    return length * (length + 1) // 2


def segments_of(cu_seqlens: NDArray[np.int32]) -> list[Interval]:
    """First row and the one after the last, of each segment."""
    return list(pairwise(cu_seqlens.tolist()))


@dataclass(frozen=True, slots=True)
class HeadShare:
    """Heads of one rank: query heads ``queries``, and the key heads ``keys`` that they share."""

    queries: range
    keys: range

    @property
    def num_sent(self) -> int:
        """Vectors of a row that this rank gets: its queries, keys and values."""
        return len(self.queries) + 2 * len(self.keys)

    def repeats(self, group: int) -> list[int] | None:
        """The key head of each query head, among this rank's, where groups of ``group`` are cut unevenly."""
        of_query = [head // group - self.keys.start for head in self.queries]
        each = len(self.queries) // max(len(self.keys), 1)
        even = of_query == [head // each for head in range(len(self.queries))] if each else True
        return None if even else of_query


def head_shares(num_query: int, num_key: int, size: int) -> list[HeadShare]:
    """Heads of each of ``size`` ranks; with fewer query heads than ranks, some get none."""
    group, first, shares = num_query // num_key, 0, []
    for count in sizes(num_query, size).tolist():
        queries = range(first, first + count)
        keys = range(first // group, (first + count - 1) // group + 1) if count else range(0)
        shares.append(HeadShare(queries, keys))
        first += count
    return shares
