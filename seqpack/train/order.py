"""The stream of rows a run takes: a function of the place in it, so that a run can start anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8192
"""Rows in which shares are kept exactly under weights."""


class RowStream:
    """Rows of ``pools`` (one per data set) without end; ``epoch_rows`` of them are an epoch.

    Without ``weights`` an epoch holds every row once, in a new order each time if ``shuffle``. ``multiple_of`` fills
    an epoch up with the first rows again, as ``--padded-samples`` does. With ``weights``, rows come from every pool by
    its share, and each pool goes round by itself. If rows are others in every epoch, those of epoch ``e`` are numbered
    from ``e * epoch_shift`` on.
    """

    def __init__(
        self,
        pools: Sequence[NDArray[np.int64]],
        *,
        seed: int,
        shuffle: bool,
        weights: Sequence[float] | None = None,
        multiple_of: int = 1,
        epoch_shift: int = 0,
    ) -> None:
        self._seed, self._shuffle, self._epoch_shift = seed, shuffle, epoch_shift
        self._pools = list(pools)
        self._weights = None
        if weights is None or len(pools) == 1:
            rows = np.concatenate(self._pools)
            missing = -len(rows) % multiple_of
            self._pools = [np.concatenate([rows, np.resize(rows, missing)])]
        else:
            self._weights = np.array(weights)
        self.epoch_rows = sum(map(len, self._pools))
        # Two epochs: a step at the seam needs both, and the order of a large set takes a while to draw.
        self._order = lru_cache(maxsize=2 * len(self._pools))(self._draw_order)
        self._block = lru_cache(maxsize=2)(self._draw_block)

    def take(self, first: int, last: int) -> NDArray[np.int64]:
        """Rows ``first`` to ``last`` of the stream."""
        if self._weights is None:
            return self._of_pool(0, np.arange(first, last))
        blocks = range(first // BLOCK_ROWS, (last - 1) // BLOCK_ROWS + 1)
        rows = np.concatenate([self._block(block) for block in blocks])
        shift = blocks[0] * BLOCK_ROWS
        return rows[first - shift : last - shift]

    def num_epochs(self, num_rows: int) -> int:
        """Epochs, of the pool that goes round most often, that the first ``num_rows`` rows are of."""
        if self._weights is None:
            return -(-num_rows // self.epoch_rows)
        taken = self._taken(-(-num_rows // BLOCK_ROWS) * BLOCK_ROWS)  # blocks are shuffled as a whole
        return max(-(-int(rows) // len(pool)) for rows, pool in zip(taken, self._pools, strict=True))

    def _of_pool(self, pool: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows at these places of the stream of one pool."""
        epochs, within = places // len(self._pools[pool]), places % len(self._pools[pool])
        parts = [self._order(pool, int(epoch))[within[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _draw_order(self, pool: int, epoch: int) -> NDArray[np.int64]:
        rows = self._pools[pool]
        return rows[row_order(len(rows), self._seed, epoch, self._shuffle, pool)] + epoch * self._epoch_shift

    def _draw_block(self, block: int) -> NDArray[np.int64]:
        """The rows of one block: of every pool the next ones, spread evenly, or at random if the run shuffles."""
        before, after = (self._taken(number * BLOCK_ROWS) for number in (block, block + 1))
        rows = [self._of_pool(pool, np.arange(a, b)) for pool, (a, b) in enumerate(zip(before, after, strict=True))]
        even = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in rows if len(part)])
        order = np.argsort(even, kind="stable")
        if self._shuffle:
            order = np.random.default_rng([self._seed, block, len(rows), BLOCK_ROWS]).permutation(BLOCK_ROWS)
        return np.concatenate(rows)[order]

    def _taken(self, count: int) -> NDArray[np.int64]:
        """How many of the first ``count`` rows come from each pool; they add up to ``count``."""
        assert self._weights is not None
        edges = np.floor(count * np.cumsum(self._weights) + 0.5).astype(np.int64)
        edges[-1] = count
        return np.diff(edges, prepend=0)


def row_order(num_rows: int, seed: int, epoch: int, shuffle: bool, pool: int = 0) -> NDArray[np.int64]:
    """The order of rows in an epoch: it depends on these arguments and nothing else."""
    if not shuffle:
        return np.arange(num_rows)
    return np.random.default_rng([seed, epoch, pool] if pool else [seed, epoch]).permutation(num_rows)
