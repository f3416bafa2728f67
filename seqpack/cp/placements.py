"""Ways to place the rows of a batch on ranks. In each of them the ranks hold equally many rows, or one more.

Rank r of ``contiguous`` and ``document_aware`` holds as many as ``plan.sizes`` says; of the others, as their order has
it. Nothing has to divide anything, and a rank may hold no rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqpack.cp.plan import Interval, Placement, pairs, segments_of, sizes

SLACK = 1.05
"""How much more than its share of attention work a rank may get before a document is cut for it."""
SMALL = 0.05
"""Share of a rank's work below which a document that fits nowhere is cut into stretches instead of folded."""


def contiguous(cu_seqlens: NDArray[np.int32], size: int) -> Placement:
    """Rank after rank along the row: least is exchanged, and the last ranks have the most work."""
    edges = np.concatenate([[0], np.cumsum(sizes(int(cu_seqlens[-1]), size))]).tolist()
    return Placement.of(cu_seqlens, [[(edges[rank], edges[rank + 1])] for rank in range(size)])


def zigzag(cu_seqlens: NDArray[np.int32], size: int) -> Placement:
    """Each rank a piece from the front and one from the back: even work if the row is one document."""
    shares = sizes(int(cu_seqlens[-1]), size).tolist()
    return Placement.of(cu_seqlens, folded(0, shares))


def per_document(cu_seqlens: NDArray[np.int32], size: int) -> Placement:
    """Every document zigzag by itself: even work whatever the documents are, and all of them are cut."""
    held = np.zeros(size, np.int64)
    mine: list[list[Interval]] = [[] for _ in range(size)]
    for lo, hi in segments_of(cu_seqlens):
        shares = np.full(size, (hi - lo) // size)
        shares[np.argsort(held, kind="stable")[: (hi - lo) % size]] += 1  # what does not divide goes where least is
        held += shares
        for rank, pieces in enumerate(folded(lo, shares.tolist())):
            mine[rank] += pieces
    return Placement.of(cu_seqlens, mine)


def document_aware(cu_seqlens: NDArray[np.int32], size: int) -> Placement:
    """Whole documents wherever rows and work allow; those too long or too heavy are cut over few ranks.

    Longest first: a document that one rank can carry goes to the least loaded one with room. The few that fit nowhere
    in the end are cut into the room that is left.
    """
    load = _Load(cu_seqlens, size)
    documents = sorted(segments_of(cu_seqlens), key=lambda document: (document[0] - document[1], document[0]))
    whole = []
    for lo, hi in documents:
        if hi - lo <= load.most_rows and pairs(hi - lo) <= SLACK * load.mean_work:
            whole.append((lo, hi))
        else:
            load.cut(lo, hi)
    left = [document for document in whole if not load.place(*document)]
    for lo, hi in left:
        load.fill(lo, hi)
    return Placement.of(cu_seqlens, load.intervals)


def folded(lo: int, shares: Sequence[int]) -> list[list[Interval]]:
    """Rows from ``lo`` on, laid over the ranks forth and back: each gets half of its share on both ways."""
    forth = [share // 2 for share in shares]
    back = [share - half for share, half in zip(shares, forth, strict=True)]
    edges = np.cumsum([lo, *forth, *reversed(back)]).tolist()
    last = 2 * len(shares) - 1
    both = ([(edges[r], edges[r + 1]), (edges[last - r], edges[last - r + 1])] for r in range(len(shares)))
    return [[(a, b) for a, b in pieces if a < b] for pieces in both]


class _Load:
    """Rows and work of each rank while documents are placed."""

    def __init__(self, cu_seqlens: NDArray[np.int32], size: int) -> None:
        shares = sizes(int(cu_seqlens[-1]), size)
        self.most_rows = int(shares.max())
        self.room: list[int] = shares.tolist()
        self.work = [0] * size
        self.mean_work = sum(pairs(hi - lo) for lo, hi in segments_of(cu_seqlens)) / size
        self.intervals: list[list[Interval]] = [[] for _ in range(size)]

    def place(self, lo: int, hi: int) -> bool:
        """A whole document on the least loaded rank that has room; false if none has."""
        fit = [rank for rank, room in enumerate(self.room) if room >= hi - lo]
        if not fit:
            return False
        self._put(min(fit, key=lambda rank: (self._load(rank), rank)), lo, hi, first=lo)
        return True

    def cut(self, lo: int, hi: int) -> None:
        """A document folded over the fewest, least loaded ranks among which its work is no more than the mean."""
        ranks = sorted((r for r in range(len(self.room)) if self.room[r]), key=lambda r: (self.work[r], -self.room[r]))
        count = 1
        while count < len(ranks) and (
            sum(self.room[rank] for rank in ranks[:count]) < hi - lo or pairs(hi - lo) / count > SLACK * self.mean_work
        ):
            count += 1
        self._fold(ranks[:count], lo, hi)

    def fill(self, lo: int, hi: int) -> None:
        """A document into the room that is left, over as few ranks as have it."""
        ranks = sorted((r for r in range(len(self.room)) if self.room[r]), key=lambda r: (-self.room[r], self.work[r]))
        count = 1
        while sum(self.room[rank] for rank in ranks[:count]) < hi - lo:
            count += 1
        if pairs(hi - lo) > SMALL * self.mean_work:
            self._fold(ranks[:count], lo, hi)
            return
        at = lo
        for rank in ranks[:count]:
            end = min(at + self.room[rank], hi)
            self._put(rank, at, end, first=lo)
            at = end

    def _fold(self, ranks: list[int], lo: int, hi: int) -> None:
        shares = _even(hi - lo, [self.room[rank] for rank in ranks])
        for rank, pieces in zip(ranks, folded(lo, shares), strict=True):
            for start, end in pieces:
                self._put(rank, start, end, first=lo)

    def _load(self, rank: int) -> float:
        """Work and rows together: without the rows, short documents would fill one rank before another."""
        return self.work[rank] / max(self.mean_work, 1.0) + (self.most_rows - self.room[rank]) / self.most_rows

    def _put(self, rank: int, lo: int, hi: int, *, first: int) -> None:
        self.intervals[rank].append((lo, hi))
        self.room[rank] -= hi - lo
        self.work[rank] += pairs(hi - first) - pairs(lo - first)


def _even(total: int, room: list[int]) -> list[int]:
    """``total`` in parts as equal as the room for each allows."""
    parts = [0] * len(room)
    for left, place in enumerate(sorted(range(len(room)), key=lambda place: room[place])):
        parts[place] = min(room[place], total // (len(room) - left))
        total -= parts[place]
    assert total == 0, "the caller has made sure that there is room"
    return parts
