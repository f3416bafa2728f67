"""What a micro-batch must hold, worked out from the rows of the data set token by token.

On purpose without ``collate`` and the functions it uses: these are what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence


@dataclass(frozen=True, slots=True)
class Unit:
    """Tokens ``start:end`` of a micro-batch that see each other, and nothing else does: a sample, or a whole pack.

    ``row`` and ``samples`` say which of the rows and which of its samples; padding is a unit without samples.
    """

    start: int
    end: int
    row: int
    samples: tuple[int, ...]

    @property
    def is_padding(self) -> bool:
        return not self.samples


@dataclass(frozen=True, slots=True)
class Expected:
    """A micro-batch of ``rows`` side by side; arrays ``[T]``. ``labels`` are those of the next token.

    ``numbers`` are those of the rows in the data set.
    """

    numbers: tuple[int, ...]
    rows: tuple[PackedSequence, ...]
    units: tuple[Unit, ...]
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    is_real: NDArray[np.bool_]

    @classmethod
    def of(cls, numbers: Sequence[int], rows: Sequence[PackedSequence], mask: MaskMode) -> Expected:
        units = tuple(_units(rows, mask))
        return cls(
            numbers=tuple(numbers),
            rows=tuple(rows),
            units=units,
            input_ids=np.concatenate([row.input_ids for row in rows]).astype(np.int64),
            labels=np.concatenate([_next_labels(row) for row in rows]),
            position_ids=np.concatenate([np.arange(unit.end - unit.start) for unit in units]),
            is_real=np.concatenate([_is_real(row) for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def boundaries(self) -> list[int]:
        """0 and the end of every unit: what attention has to keep apart."""
        return [0, *(unit.end for unit in self.units)]

    @property
    def unit_of_token(self) -> NDArray[np.int64]:
        """Number of the unit of each token, ``[T]``."""
        return np.repeat(np.arange(len(self.units)), [unit.end - unit.start for unit in self.units])


def _units(rows: Sequence[PackedSequence], mask: MaskMode) -> Iterator[Unit]:
    begin = 0
    for number, row in enumerate(rows):
        ends = row.cu_seqlens.tolist()
        samples = list(pairwise(ends[: row.num_samples + 1]))
        if mask is MaskMode.CAUSAL:
            yield Unit(begin, begin + samples[-1][1], number, tuple(range(len(samples))))
        else:
            for sample, (start, end) in enumerate(samples):
                yield Unit(begin + start, begin + end, number, (sample,))
        if row.num_padding:
            yield Unit(begin + len(row) - row.num_padding, begin + len(row), number, ())
        begin += len(row)


def _next_labels(row: PackedSequence) -> NDArray[np.int64]:
    """For each token the label of the one behind it in its own sample."""
    targets = np.full(len(row), IGNORE_INDEX, np.int64)
    for start, end in pairwise(row.cu_seqlens.tolist()[: row.num_samples + 1]):
        for token in range(start, end - 1):
            targets[token] = row.labels[token + 1]
    return targets


def _is_real(row: PackedSequence) -> NDArray[np.bool_]:
    """False at padding, also behind samples that are aligned."""
    real = np.zeros(len(row), bool)
    for sample, (start, end) in enumerate(pairwise(row.cu_seqlens.tolist()[: row.num_samples + 1])):
        real[start : end if row.real_lengths is None else start + int(row.real_lengths[sample])] = True
    return real
