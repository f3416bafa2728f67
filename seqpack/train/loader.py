"""Which rows each optimizer step takes: a function of the step's number, so a run can start at any step.

Rows of all epochs form one long stream, cut into steps of ``global_batch_size``. Every row comes once per epoch; only
the very last step of the run may be smaller, which the loss allows because each step divides by its own targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.runtime.batch import Batch, LossReduction, collate

PadTo = Literal["none", "longest", "seq-length"]


class RowSource(Protocol):
    """Rows by number; ``PackedDataset`` is one."""

    def __getitem__(self, row: int, /) -> PackedSequence: ...


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one optimizer step, by micro-batch, its trained tokens, and what its loss divides by."""

    index: int
    micro_batches: tuple[NDArray[np.int64], ...]
    num_targets: int
    loss_units: int


class RowSchedule:
    """The steps of a run: ``len()`` of them, each addressed by its index.

    ``num_targets`` holds the loss targets of every row of the data set. Rows without any are left out, as they could
    only add time; ``num_left_out`` counts them. ``loss_units`` holds what the loss of each row counts, by default its
    targets. Exactly one of ``train_iters`` and ``epochs`` is given.
    """

    def __init__(
        self,
        num_targets: NDArray[np.int64],
        *,
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
        shuffle: bool = True,
        train_iters: int | None = None,
        epochs: float | None = None,
        loss_units: NDArray[np.int64] | None = None,
    ) -> None:
        assert (train_iters is None) != (epochs is None)
        self._rows = np.flatnonzero(num_targets)
        if not len(self._rows):
            raise DataError(
                "SP205",
                f"none of the {len(num_targets):,} rows has a token to train on",
                help="look at them with seqpack show; were the answers cut off by --seq-length?",
            )
        self._num_targets = num_targets
        self._loss_units = num_targets if loss_units is None else loss_units
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        if epochs is None:
            self.num_rows = (train_iters or 0) * global_batch_size
        else:
            self.num_rows = max(1, round(epochs * len(self._rows)))
        self.num_left_out = len(num_targets) - len(self._rows)
        # Two epochs: a step at the seam needs both, and the order of a large set takes a while to draw.
        self._order = lru_cache(maxsize=2)(lambda epoch: self._rows[row_order(len(self._rows), seed, epoch, shuffle)])

    def __len__(self) -> int:
        return -(-self.num_rows // self._global_batch_size)

    def __iter__(self) -> Iterator[Step]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Step:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self._global_batch_size
        rows = self._take(first, min(first + self._global_batch_size, self.num_rows))
        starts = range(0, len(rows), self._micro_batch_size)
        micro_batches = tuple(rows[start : start + self._micro_batch_size] for start in starts)
        return Step(index, micro_batches, int(self._num_targets[rows].sum()), int(self._loss_units[rows].sum()))

    @property
    def epochs(self) -> float:
        """Passes over the rows in the whole run."""
        return self.num_rows / len(self._rows)

    def _take(self, first: int, last: int) -> NDArray[np.int64]:
        """Rows ``first`` to ``last`` of the stream of all epochs."""
        epochs = np.arange(first, last) // len(self._rows)
        places = np.arange(first, last) % len(self._rows)
        return np.concatenate([self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])


def row_order(num_rows: int, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """The order of rows in an epoch: it depends on these arguments and nothing else."""
    if not shuffle:
        return np.arange(num_rows)
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


@dataclass(frozen=True, slots=True)
class BatchReader:
    """Rows of a micro-batch -> Batch. ``seq_length`` is only needed for ``pad_to="seq-length"``."""

    source: RowSource
    mask: MaskMode
    pad_to: PadTo = "none"
    seq_length: int | None = None
    pad_token_id: int = 0
    reduction: LossReduction = "token"

    def __call__(self, rows: NDArray[np.int64]) -> Batch:
        sequences = [self.source[int(row)] for row in rows]
        length = None
        if self.pad_to == "longest":
            length = max(len(sequence) for sequence in sequences)
        elif self.pad_to == "seq-length":
            length = self.seq_length
        return collate(sequences, self.mask, pad_to=length, pad_token_id=self.pad_token_id, reduction=self.reduction)
