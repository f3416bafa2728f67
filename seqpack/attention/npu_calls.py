"""Which rows of a pack go into which call of the NPU's attention operator; host arithmetic on boundaries alone.

The operator takes at most 1,024 segments and 2**20 tokens a call, and no query that sees no key. Boundaries go to it as
cumulative ends without the leading 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seqpack.core.segments import cu_seqlens_from_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SEGMENTS = 1024
MAX_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """Segments of one call: rows ``q_start:q_end`` and ``k_start:k_end``, and their ends counted from there."""

    q_start: int
    q_end: int
    k_start: int
    k_end: int
    q_ends: list[int]
    k_ends: list[int]


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Queries and keys that take part, by row number (None: all of them), and the boundaries of what is left.

    Left out are queries that see no key, keys that no query sees, and segments without any of either.
    """

    q_rows: NDArray[np.int64] | None
    k_rows: NDArray[np.int64] | None
    cu_q: NDArray[np.int32]
    cu_k: NDArray[np.int32]

    @classmethod
    def of(cls, cu_q: NDArray[np.int32], cu_k: NDArray[np.int32], *, causal: bool) -> CallPlan:
        """What takes part under a causal mask whose last query is at the last key, or where every key is seen."""
        num_queries, num_keys = np.diff(cu_q), np.diff(cu_k)
        seeing = np.minimum(num_queries, num_keys) if causal else num_queries * (num_keys > 0)
        seen = num_keys * (seeing > 0)
        taken = seeing > 0
        return cls(
            q_rows=None if np.array_equal(seeing, num_queries) else _last_rows(cu_q, seeing),
            k_rows=None if np.array_equal(seen, num_keys) else _last_rows(cu_k, seen),
            cu_q=cu_seqlens_from_lengths(seeing[taken]),
            cu_k=cu_seqlens_from_lengths(seen[taken]),
        )

    @property
    def longest_key(self) -> int:
        """Keys of the longest segment."""
        return int(np.diff(self.cu_k).max(initial=0))

    def calls(self) -> Iterator[Call]:
        """As few calls as the limits allow; a segment is never divided."""
        start, num_segments = 0, len(self.cu_q) - 1
        while start < num_segments:
            fit = [np.searchsorted(cu, cu[start] + MAX_TOKENS, side="right") - 1 for cu in (self.cu_q, self.cu_k)]
            end = max(start + 1, min(start + MAX_SEGMENTS, *map(int, fit)))
            yield self._call(start, end)
            start = end

    def _call(self, start: int, end: int) -> Call:
        (q_start, q_end), (k_start, k_end) = ((int(cu[start]), int(cu[end])) for cu in (self.cu_q, self.cu_k))
        q_ends, k_ends = ((cu[start + 1 : end + 1] - cu[start]).tolist() for cu in (self.cu_q, self.cu_k))
        return Call(q_start, q_end, k_start, k_end, q_ends, k_ends)


def head_major_places(ends: list[int], num_heads: int) -> NDArray[np.int64]:
    """Where the number of token t and head n stands in the operator's default order, int64 ``[T, N]``.

    That order goes through the segments; inside one, head after head, each with all tokens of the segment.
    """
    cu = np.array([0, *ends], np.int64)
    lengths = np.repeat(np.diff(cu), np.diff(cu))
    starts = np.repeat(cu[:-1], np.diff(cu))
    offsets = np.arange(len(starts)) - starts
    firsts = starts * num_heads + offsets
    return firsts[:, None] + lengths[:, None] * np.arange(num_heads)


def _last_rows(cu: NDArray[np.int32], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Numbers of the last ``counts`` rows of every segment."""
    firsts = np.repeat(cu[1:] - counts, counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    rows: NDArray[np.int64] = (firsts + np.arange(len(firsts)) - before).astype(np.int64)
    return rows
