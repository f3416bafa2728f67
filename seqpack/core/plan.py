"""A pack plan: which piece of which sample goes into which pack, as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Pack ``p`` holds the pieces ``offsets[p]:offsets[p + 1]``.

    Piece ``i`` is ``length[i]`` tokens of sample ``sample[i]`` from token ``start[i]`` on. All arrays are int64:
    ``sample``, ``start``, ``length`` ``[pieces]``, ``offsets`` ``[packs + 1]``.
    """

    seq_length: int
    sample: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_packs(cls, packs: Sequence[Sequence[int]], lengths: NDArray[np.int64], *, seq_length: int) -> PackPlan:
        """A plan of whole samples: ``packs[p]`` lists the samples of pack ``p``."""
        sample = np.array([index for pack in packs for index in pack], np.int64)
        offsets = np.cumsum([0, *map(len, packs)], dtype=np.int64)
        return cls(seq_length, sample, np.zeros_like(sample), lengths[sample], offsets)

    def fill(self) -> NDArray[np.int64]:
        """Tokens in each pack, int64 ``[packs]``."""
        ends = np.concatenate([[0], np.cumsum(self.length)])
        filled: NDArray[np.int64] = ends[self.offsets[1:]] - ends[self.offsets[:-1]]
        return filled

    def shuffled(self, rng: np.random.Generator) -> PackPlan:
        """The same packs in another order."""
        order = rng.permutation(len(self))
        sizes = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        pieces = np.repeat(self.offsets[:-1][order] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return PackPlan(self.seq_length, self.sample[pieces], self.start[pieces], self.length[pieces], offsets)
