from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from seqpack.runtime.parallel import RowShare
from seqpack.train.loader import RowSchedule
from seqpack.train.read_ahead import BATCHES_AHEAD, ReadAhead, upcoming_rows

ROWS = [np.array([number, number + 1]) for number in range(8)]


class Reader:
    """Notes what is read and by whom; fails at ``broken``."""

    def __init__(self, broken: int | None = None) -> None:
        self.read: list[tuple[int, bool]] = []
        self._broken = broken

    def __call__(self, rows: np.ndarray) -> Any:
        if rows[0] == self._broken:
            raise OSError("the disk is gone")
        self.read.append((int(rows[0]), threading.current_thread() is threading.main_thread()))
        return f"batch of {rows.tolist()}"


def test_every_batch_is_read_once_in_a_thread_and_in_order() -> None:
    reader = Reader()
    with ReadAhead(reader, iter(ROWS)) as ahead:
        assert [ahead(rows) for rows in ROWS] == [f"batch of {rows.tolist()}" for rows in ROWS]
    assert reader.read == [(number, False) for number in range(8)]


def test_what_is_out_of_turn_is_read_at_once() -> None:
    reader = Reader()
    with ReadAhead(reader, iter(ROWS)) as ahead:
        ahead(ROWS[0])
        assert ahead(np.array([50, 51])) == "batch of [50, 51]"
        ahead(ROWS[1])
    assert (50, True) in reader.read
    assert (1, False) in reader.read


def test_no_more_than_a_few_are_kept() -> None:
    taken = []

    def rows() -> Iterator[np.ndarray]:
        for number, row in enumerate(ROWS):
            taken.append(number)
            yield row

    with ReadAhead(Reader(), rows()) as ahead:
        ahead(ROWS[0])
        assert len(taken) == 1 + BATCHES_AHEAD


def test_an_error_comes_out_at_its_batch() -> None:
    with ReadAhead(Reader(broken=2), iter(ROWS)) as ahead:
        ahead(ROWS[0])
        ahead(ROWS[1])
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(ROWS[2])


@pytest.mark.parametrize("size", [1, 3])
def test_the_rows_that_a_rank_will_ask_for(size: int) -> None:
    schedule = RowSchedule(np.arange(1, 12), global_batch_size=4, micro_batch_size=2, seed=0, epochs=2)
    for rank in range(size):
        asked = [rows for step in list(schedule)[2:] for rows, _ in step.of_rank(rank, size)]
        found = list(upcoming_rows(schedule, 2, RowShare(rank, size)))
        assert len(found) == len(asked) > 0
        assert all(map(np.array_equal, found, asked))
