"""Who meets whom in a ring, and which rows one rank lends another there. numpy alone, like the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqpack.cp.plan import Placement, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Lent:
    """What rank ``borrower`` gets of another: places among the holder's rows, and which keys each of its runs sees.

    Runs that see none are left out: ``run`` numbers the others, which see the ``length`` rows from place ``start`` of
    what is sent.
    """

    rows: Rows
    run: Rows
    start: Rows
    length: Rows


def lent(placement: Placement, holder: int, borrower: int) -> Lent:
    """Rows of ``holder`` that come before some run of ``borrower`` in its segment."""
    theirs, runs = placement.rows[holder], placement.runs[borrower]
    start, end = np.searchsorted(theirs, runs.first), np.searchsorted(theirs, runs.lo)
    run = np.flatnonzero(end > start)
    edges = np.zeros(len(theirs) + 1, np.int64)
    np.add.at(edges, start[run], 1)
    np.add.at(edges, end[run], -1)
    seen = np.cumsum(edges[:-1]) > 0
    sent_before = np.concatenate([[0], np.cumsum(seen)])
    return Lent(np.flatnonzero(seen), run, sent_before[start[run]], (end - start)[run])


def own_keys(placement: Placement, rank: int) -> tuple[Rows, Rows]:
    """Where among a rank's own rows the keys of each of its runs begin, and how many they are, itself among them."""
    mine, runs = placement.rows[rank], placement.runs[rank]
    start = np.searchsorted(mine, runs.first)
    return start, np.searchsorted(mine, runs.hi) - start


def visits(size: int, inner: int) -> list[tuple[int, int]]:
    """Steps of a double ring: how many inner rings, and ranks within one, keys have come by; first (0, 0).

    Inner rings of ``inner`` neighbours turn once before keys go on to the next one. A plain ring is one inner ring.
    """
    return [(outer, place) for outer in range(size // inner) for place in range(inner)]


def partner(rank: int, size: int, inner: int, step: tuple[int, int], direction: int) -> int:
    """Whose keys a rank gets in a step (direction -1), or who gets its own (+1)."""
    outer, place = divmod(rank, inner)
    return (outer + direction * step[0]) % (size // inner) * inner + (place + direction * step[1]) % inner
