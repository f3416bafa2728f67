"""Rows are read while the model computes on those before them. What is read, and in which order, does not change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from seqpack.runtime.batch import Batch
    from seqpack.runtime.parallel import RowShare
    from seqpack.train.loader import RowSchedule

BATCHES_AHEAD = 3
"""Micro-batches that are kept ready: some, as one of many short samples takes longer than its neighbours."""


class ReadAhead:
    """Stands for ``read``, and has the micro-batches of ``upcoming`` read in a thread before they are asked for.

    One that is asked for out of turn, as by an evaluation in between, is read at once. An error of the thread comes
    out where its batch is asked for.
    """

    def __init__(self, read: Callable[[NDArray[np.int64]], Batch], upcoming: Iterator[NDArray[np.int64]]) -> None:
        self._read = read
        self._upcoming = upcoming
        self._thread = ThreadPoolExecutor(1, "rows")
        self._ready: deque[tuple[NDArray[np.int64], Future[Batch]]] = deque()

    def __enter__(self) -> Self:
        self._refill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __call__(self, rows: NDArray[np.int64]) -> Batch:
        if not self._ready or not np.array_equal(self._ready[0][0], rows):
            return self._read(rows)
        batch = self._ready.popleft()[1].result()
        self._refill()
        return batch

    def _refill(self) -> None:
        while len(self._ready) < BATCHES_AHEAD and (rows := next(self._upcoming, None)) is not None:
            self._ready.append((rows, self._thread.submit(self._read, rows)))


def upcoming_rows(schedule: RowSchedule, first_step: int, share: RowShare) -> Iterator[NDArray[np.int64]]:
    """Rows of all micro-batches of this share, from a step on, in the order in which the loop asks for them."""
    for index in range(first_step, len(schedule)):
        for rows, _ in schedule[index].of_rank(share.rank, share.size):
            yield rows
