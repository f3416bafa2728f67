"""Which rows each optimizer step takes: a function of the step's number, so a run can start at any step.

Rows of all epochs form one long stream, cut into steps of ``global_batch_size``. Every row comes once per epoch; only
the very last step of the run may be smaller, which the loss allows because each step divides by its own targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.runtime.batch import Batch, LossReduction, collate
from seqpack.train.order import RowStream

COUNTED_ROWS = 1 << 20
"""Rows of the stream that are counted at a time."""
PadTo = Literal["none", "longest", "seq-length"]


class RowSource(Protocol):
    """Rows by number; ``PackedDataset`` is one."""

    def __getitem__(self, row: int, /) -> PackedSequence: ...


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one optimizer step, by micro-batch, its trained tokens, what its loss divides by, and what each costs."""

    index: int
    micro_batches: tuple[NDArray[np.int64], ...]
    num_targets: int
    loss_units: int
    costs: tuple[float, ...] = ()

    def of_rank(self, rank: int, size: int) -> list[tuple[NDArray[np.int64], bool]]:
        """What one rank computes: micro-batches, as many as every other rank, and whether their rows count.

        Ranks that have one less repeat the first micro-batch, so that all of them meet in every exchange.
        """
        most = -(-len(self.micro_batches) // size)
        mine = [(self.micro_batches[number], True) for number in self._shares(size)[rank]]
        return mine + [(self.micro_batches[0], False)] * (most - len(mine))

    def _shares(self, size: int) -> list[list[int]]:
        """Numbers of the micro-batches of every rank: in rounds of one for each, the dearest to the least loaded."""
        costs = self.costs or (1.0,) * len(self.micro_batches)
        dearest_first = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
        shares: list[list[int]] = [[] for _ in range(size)]
        loads = [0.0] * size
        for start in range(0, len(costs), size):
            least_loaded_first = sorted(range(size), key=lambda rank: (loads[rank], rank))
            for rank, number in zip(least_loaded_first, dearest_first[start : start + size], strict=False):
                shares[rank].append(number)
                loads[rank] += costs[number]
        return [sorted(share) for share in shares]


class RowSchedule:
    """The steps of a run: ``len()`` of them, each addressed by its index.

    ``num_targets`` holds the loss targets of every row of the data. Rows without any are left out, as they could only
    add time; ``num_left_out`` counts them. ``loss_units`` holds what the loss of each row counts, by default its
    targets. Exactly one of ``train_iters``, ``train_samples`` (rows) and ``epochs`` is given. ``pools`` are the rows to
    train on, one array for each data set; all by default. ``weights``, ``padded`` and ``epoch_shift`` are those of
    ``RowStream``; with ``epoch_shift``, the arrays of values go on with those of the rows of the next epochs.
    ``costs`` is the work of each row, by which a step is shared among ranks; its targets by default.
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
        train_samples: int | None = None,
        epochs: float | None = None,
        loss_units: NDArray[np.int64] | None = None,
        pools: Sequence[NDArray[np.int64]] | None = None,
        weights: Sequence[float] | None = None,
        padded: bool = False,
        costs: NDArray[np.float64] | None = None,
        epoch_shift: int = 0,
    ) -> None:
        assert sum(duration is not None for duration in (train_iters, train_samples, epochs)) == 1
        pools = [np.arange(len(num_targets))] if pools is None else pools
        trained = [rows[num_targets[rows] > 0] for rows in pools]
        if not all(map(len, trained)):
            raise DataError(
                "SP205",
                f"none of the {min(len(rows) for rows in pools if not np.any(num_targets[rows])):,} rows has a token "
                "to train on",
                help="look at them with seqpack show; were the answers cut off by --seq-length?",
            )
        self._num_targets = num_targets
        self._loss_units = num_targets if loss_units is None else loss_units
        self._costs = num_targets if costs is None else costs
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        self._stream = RowStream(
            trained,
            seed=seed,
            shuffle=shuffle,
            weights=weights,
            multiple_of=global_batch_size if padded else 1,
            epoch_shift=epoch_shift,
        )
        if epochs is not None:
            self.num_rows = max(1, round(epochs * self._stream.epoch_rows))
        else:
            self.num_rows = train_samples or (train_iters or 0) * global_batch_size
        self.num_left_out = sum(map(len, pools)) - sum(map(len, trained))

    def __len__(self) -> int:
        return -(-self.num_rows // self._global_batch_size)

    def __iter__(self) -> Iterator[Step]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Step:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self._global_batch_size
        rows = self._stream.take(first, min(first + self._global_batch_size, self.num_rows))
        starts = range(0, len(rows), self._micro_batch_size)
        micro_batches = tuple(rows[start : start + self._micro_batch_size] for start in starts)
        return Step(
            index,
            micro_batches,
            num_targets=int(self._num_targets[rows].sum()),
            loss_units=int(self._loss_units[rows].sum()),
            costs=tuple(float(self._costs[rows].sum()) for rows in micro_batches),
        )

    def row_counts(self) -> NDArray[np.int64]:
        """How often the run takes each row, int64 ``[rows]``."""
        counts = np.zeros(len(self._num_targets), np.int64)
        for first in range(0, self.num_rows, COUNTED_ROWS):
            rows = self._stream.take(first, min(first + COUNTED_ROWS, self.num_rows))
            counts += np.bincount(rows, minlength=len(counts))
        return counts

    @property
    def num_epochs(self) -> int:
        """Epochs that the run takes rows of, of the set that goes round most often."""
        return self._stream.num_epochs(self.num_rows)

    @property
    def epochs(self) -> float:
        """Passes over the rows in the whole run."""
        return self.num_rows / self._stream.epoch_rows


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
