"""Bottom-right causal attention with a window, cut into rectangles that a plain kernel can compute.

A kernel knows three kinds of rectangle: all keys seen, a causal square, and any mask of keys. Where two rectangles hold
the same query, their results are merged by their log-sum-exps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

MIN_BLOCK, MAX_BLOCK = 64, 256
"""Queries of a masked rectangle: small ones compute many keys twice, large ones mask many keys out."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries ``q_start:q_end`` on keys ``k_start:k_end``.

    ``offset`` belongs to kind "band": query j of the tile is at key j + offset of the tile, and sees it and the window
    before it. ``again`` says that an earlier tile has these queries too.
    """

    q_start: int
    q_end: int
    k_start: int
    k_end: int
    kind: Literal["full", "causal", "band"]
    offset: int = 0
    again: bool = False


def tiles(cu_q: Sequence[int], cu_k: Sequence[int], window: int | None) -> Iterator[Tile]:
    """The rectangles of all segments; queries that see no key are in none."""
    assert len(cu_q) == len(cu_k)
    for (q_start, q_end), (k_start, k_end) in zip(pairwise(cu_q), pairwise(cu_k), strict=True):
        ahead = (k_end - k_start) - (q_end - q_start)  # keys before the first query
        q_start, ahead = max(q_start, q_start - ahead), max(ahead, 0)
        if q_start >= q_end:
            continue
        if window is not None and k_end - k_start > window:
            yield from _bands(q_start, q_end, k_start, ahead, window)
            continue
        if ahead:
            yield Tile(q_start, q_end, k_start, k_start + ahead, "full")
        yield Tile(q_start, q_end, k_start + ahead, k_end, "causal", again=bool(ahead))


def whole_rectangles(cu_q: Sequence[int], cu_k: Sequence[int]) -> Iterator[Tile]:
    """Every query of a segment on every key of it."""
    for (q_start, q_end), (k_start, k_end) in zip(pairwise(cu_q), pairwise(cu_k), strict=True):
        if q_start < q_end and k_start < k_end:
            yield Tile(q_start, q_end, k_start, k_end, "full")


def _bands(q_start: int, q_end: int, k_start: int, ahead: int, window: int) -> Iterator[Tile]:
    block = min(max(window, MIN_BLOCK), MAX_BLOCK)
    for start in range(q_start, q_end, block):
        end = min(start + block, q_end)
        at, last = start - q_start + ahead, end - q_start + ahead  # places of the block among the keys of the segment
        first = max(0, at - window + 1)
        yield Tile(start, end, k_start + first, k_start + last, "band", offset=at - first)
