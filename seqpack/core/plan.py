"""A pack plan: which piece of which sample goes into which pack, as flat arrays.

A plan of whole samples, which is nearly every plan, costs 4 bytes per sample and 4 per pack: ``sample`` and ``offsets``
are int32 as long as they can be, and lengths are looked up in those of the set, which the plan refers to and does not
copy. Only a plan that cuts samples carries where each piece starts and how long it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]
PIECES_AT_A_TIME = 1 << 18
"""What is computed over all pieces is computed for so many at a time, so that memory does not grow with the set."""


def index_dtype(size: int) -> np.dtype[np.signedinteger]:
    """The smallest of int32 and int64 that can number ``size`` things."""
    return np.dtype(np.int32 if size < 1 << 31 else np.int64)


def round_up(lengths: Integers, align: int) -> NDArray[np.int64]:
    """``lengths`` rounded up to multiples of ``align``, int64."""
    wide = lengths.astype(np.int64)
    if align > 1:
        wide += -wide % align
    return wide


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Pack ``p`` holds the pieces ``offsets[p]:offsets[p + 1]``; piece ``i`` belongs to sample ``sample[i]``.

    ``sample`` ``[pieces]`` and ``offsets`` ``[packs + 1]`` are integers of any width, ``lengths`` ``[samples]`` the
    tokens of each sample of the set. Pieces are whole samples unless ``cut_start`` and ``cut_length`` ``[pieces]`` say
    otherwise. In its pack, a piece takes its length rounded up to a multiple of ``align``.
    """

    seq_length: int
    sample: Integers
    offsets: Integers
    lengths: Integers
    cut_start: Integers | None = None
    cut_length: Integers | None = None
    align: int = 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_packs(cls, packs: Sequence[Sequence[int]], lengths: Integers, *, seq_length: int) -> PackPlan:
        """A plan of whole samples: ``packs[p]`` lists the samples of pack ``p``."""
        sample = np.array([index for pack in packs for index in pack], index_dtype(len(lengths)))
        offsets = np.cumsum([0, *map(len, packs)], dtype=index_dtype(len(sample)))
        return cls(seq_length, sample, offsets, lengths)

    @property
    def start(self) -> Integers:
        """The token of its sample that each piece starts at; for whole samples a view of a single zero."""
        return np.broadcast_to(np.int64(0), self.sample.shape) if self.cut_start is None else self.cut_start

    @property
    def length(self) -> NDArray[np.int64]:
        """Tokens of each piece, int64; 8 bytes per piece, so large plans ask ``lengths_of`` for a part."""
        return self.lengths_of(0, len(self.sample))

    def lengths_of(self, first: int, last: int) -> NDArray[np.int64]:
        """Tokens of the pieces ``first:last``, int64."""
        if self.cut_length is not None:
            return self.cut_length[first:last].astype(np.int64)
        return self.lengths[self.sample[first:last]].astype(np.int64)

    def places_of(self, first: int, last: int) -> NDArray[np.int64]:
        """Places that the pieces ``first:last`` take in their packs: their lengths, aligned; int64."""
        return round_up(self.lengths_of(first, last), self.align)

    def batches(self, pieces: int = PIECES_AT_A_TIME) -> Iterator[tuple[int, int]]:
        """Ranges of packs that hold about so many pieces, and at least one pack."""
        first = 0
        while first < len(self):
            reach = int(self.offsets[first]) + pieces
            last = max(first + 1, int(np.searchsorted(self.offsets, reach, side="right")) - 1)
            yield first, last
            first = last

    def fill(self) -> NDArray[np.int64]:
        """Tokens in each pack, int64 ``[packs]``."""
        return self._sums(1)

    def taken(self) -> NDArray[np.int64]:
        """Places taken in each pack, int64 ``[packs]``: its tokens, and the padding that ``align`` asks for."""
        return self._sums(self.align)

    @property
    def padding(self) -> int:
        """Places of all packs that hold no token."""
        return len(self) * self.seq_length - int(self.fill().sum())

    def shuffled(self, rng: np.random.Generator) -> PackPlan:
        """The same packs in another order."""
        order = rng.permutation(len(self))
        sizes = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        pieces = np.repeat(self.offsets[:-1][order] - offsets[:-1], sizes) + np.arange(offsets[-1])
        cut_start = None if self.cut_start is None else self.cut_start[pieces]
        cut_length = None if self.cut_length is None else self.cut_length[pieces]
        kind = index_dtype(len(self.sample))
        return PackPlan(
            self.seq_length, self.sample[pieces], offsets.astype(kind), self.lengths, cut_start, cut_length, self.align
        )

    def _sums(self, align: int) -> NDArray[np.int64]:
        sums = np.zeros(len(self), np.int64)
        for first, last in self.batches():
            begin, end = int(self.offsets[first]), int(self.offsets[last])
            ends = np.concatenate([[0], np.cumsum(round_up(self.lengths_of(begin, end), align))])
            inside = self.offsets[first : last + 1] - begin
            sums[first:last] = ends[inside[1:]] - ends[inside[:-1]]
        return sums
