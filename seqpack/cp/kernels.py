"""The local pieces of context-parallel attention: tensors token by token, segments, and the kernels behind them.

Shapes: T tokens this rank holds, S tokens of a buffer of keys, N query heads, K key heads, H head size, X any of the
heads. Rows are token-major here, ``[T, X, H]``, which is how the layers store them and how they travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqpack.cp.plan import Rows, bounds, stretches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.attention.contract import PartialAttention, VarlenAttention


@dataclass(frozen=True, slots=True)
class Kernels:
    """Attention of one device: over all keys at once and, if it can, over some of them at a time."""

    whole: VarlenAttention
    partial: PartialAttention | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a kernel: the queries of each segment on its keys.

    ``queries`` and ``keys`` are places among the rows of this rank and in a buffer; None takes all as they are.
    """

    queries: Tensor | None
    keys: Tensor | None
    cu_q: NDArray[np.int32]
    cu_k: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        device: torch.device,
        queries: tuple[Rows, Rows],
        keys: tuple[Rows, Rows],
        num_rows: tuple[int, int],
        places: Rows | None = None,
    ) -> Call:
        """From the first places and the lengths of the segments; ``places`` maps those of keys to a buffer.

        ``num_rows`` are those of this rank and of the buffer.
        """
        query_rows, key_rows = stretches(*queries), stretches(*keys)
        if places is not None:
            key_rows = places[key_rows]
        return cls(
            _index(query_rows, num_rows[0], device),
            _index(key_rows, num_rows[1], device),
            bounds(queries[1]),
            bounds(keys[1]),
        )

    @property
    def empty(self) -> bool:
        return len(self.cu_q) == 1

    def take(self, q_TNH: Tensor, kv_SXH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the call, as kernels want them."""
        k_SKH, v_SKH = pick(kv_SXH, self.keys).chunk(2, dim=1)
        return heads_first(pick(q_TNH, self.queries)), heads_first(k_SKH), heads_first(v_SKH)

    def attend(
        self, q_TNH: Tensor, kv_SXH: Tensor, kernel: VarlenAttention, scale: float, window: int | None
    ) -> Tensor:
        """Causal attention of these queries, ``[queries, N, H]``; with a gradient path also where there are none."""
        q, k, v = self.take(q_TNH, kv_SXH)
        if self.empty:
            return tokens_first(q) + 0.0 * kv_SXH[:0].sum()
        out, _ = kernel(q, k, v, cu_q=self.cu_q, cu_k=self.cu_k, scale=scale, window=window)
        return tokens_first(out)


def _index(rows: Rows, num_rows: int, device: torch.device) -> Tensor | None:
    if len(rows) == num_rows and bool((rows == np.arange(num_rows)).all()):
        return None
    return torch.from_numpy(rows).to(device, non_blocking=True)


def pick(rows: Tensor, index: Tensor | None) -> Tensor:
    """Rows at these places; None is all of them."""
    return rows if index is None else rows.index_select(0, index)


def tokens_first(x_1XTH: Tensor) -> Tensor:
    """``[1, X, T, H]`` as ``[T, X, H]``."""
    return x_1XTH[0].transpose(0, 1)


def heads_first(x_TXH: Tensor) -> Tensor:
    """``[T, X, H]`` as ``[1, X, T, H]``."""
    return x_TXH.transpose(0, 1)[None]


def keys_and_values(k_1KTH: Tensor, v_1KTH: Tensor) -> Tensor:
    """Both in one tensor ``[T, 2K, H]``, so that they travel together."""
    return torch.cat([tokens_first(k_1KTH), tokens_first(v_1KTH)], dim=1)


def in_order(parts: list[Tensor], places: Tensor | None) -> Tensor:
    """Parts one after the other, then row i of the result is theirs at ``places[i]``."""
    return pick(torch.cat(parts) if len(parts) > 1 else parts[0], places)
