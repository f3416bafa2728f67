from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.train.loader import BatchReader, RowSchedule, Step
from seqpack.train.order import row_order


def schedule(num_rows: int, *, batch: int = 4, micro: int = 1, seed: int = 0, **duration: float) -> RowSchedule:
    targets = np.arange(1, num_rows + 1)
    return RowSchedule(targets, global_batch_size=batch, micro_batch_size=micro, seed=seed, **duration)  # type: ignore[arg-type]


def rows_of(steps: RowSchedule) -> list[int]:
    return [int(row) for step in steps for rows in step.micro_batches for row in rows]


@given(
    num_rows=st.integers(1, 30),
    micro=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_every_row_comes_once_per_epoch(num_rows: int, micro: int, accumulation: int, epochs: int, seed: int) -> None:
    steps = schedule(num_rows, batch=micro * accumulation, micro=micro, seed=seed, epochs=epochs)
    taken = rows_of(steps)
    assert len(list(steps)) == len(steps)
    for epoch in range(epochs):
        assert sorted(taken[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))
    assert len(taken) == num_rows * epochs
    assert sum(step.num_targets for step in steps) == epochs * num_rows * (num_rows + 1) // 2
    assert all(len(rows) <= micro for step in steps for rows in step.micro_batches)


def test_a_step_is_found_without_those_before_it() -> None:
    forward, alone = schedule(10, train_iters=9), schedule(10, train_iters=9)
    expected = [step.micro_batches for step in forward][6]
    assert [rows.tolist() for rows in alone[6].micro_batches] == [rows.tolist() for rows in expected]


def test_train_iters_go_round_and_are_all_full() -> None:
    steps = schedule(3, batch=4, train_iters=3)
    assert len(steps) == 3
    assert steps.epochs == 4
    assert Counter(rows_of(steps)) == {0: 4, 1: 4, 2: 4}


def test_half_an_epoch() -> None:
    steps = schedule(10, batch=2, epochs=0.5)
    assert (len(steps), len(set(rows_of(steps)))) == (3, 5)


def test_order_depends_on_seed_and_epoch_only() -> None:
    assert row_order(50, 1, 0, True).tolist() == row_order(50, 1, 0, True).tolist()
    assert row_order(50, 1, 0, True).tolist() != row_order(50, 1, 1, True).tolist()
    assert row_order(50, 1, 0, True).tolist() != row_order(50, 2, 0, True).tolist()
    assert row_order(5, 1, 0, False).tolist() == [0, 1, 2, 3, 4]


def test_rows_without_targets_are_left_out_and_counted() -> None:
    steps = RowSchedule(np.array([0, 5, 0, 2]), global_batch_size=1, micro_batch_size=1, seed=0, epochs=1)
    assert steps.num_left_out == 2
    assert sorted(rows_of(steps)) == [1, 3]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="none of the 3 rows") as raised:
        RowSchedule(np.zeros(3, np.int64), global_batch_size=1, micro_batch_size=1, seed=0, epochs=1)
    assert raised.value.code == "SP205"


@given(
    costs=st.lists(st.floats(0, 1e6), min_size=1, max_size=40),
    size=st.integers(1, 6),
)
def test_ranks_share_a_step(costs: list[float], size: int) -> None:
    micro_batches = tuple(np.array([number]) for number in range(len(costs)))
    step = Step(0, micro_batches, 1, 1, tuple(costs))
    shares = [step.of_rank(rank, size) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1  # or some would wait for ever
    counted = sorted(int(rows[0]) for share in shares for rows, counts in share if counts)
    assert counted == list(range(len(costs)))


def test_one_rank_takes_all_in_their_order() -> None:
    step = Step(0, tuple(np.array([number]) for number in range(4)), 1, 1, (1.0, 9.0, 3.0, 2.0))
    assert [(int(rows[0]), counts) for rows, counts in step.of_rank(0, 1)] == [(n, True) for n in range(4)]


def test_the_work_of_a_step_is_balanced() -> None:
    """Packs of 2,048 tokens of log-normal samples: as many tokens each, and up to four times the attention."""
    lengths = np.random.default_rng(0).lognormal(5.5, 1.0, 8000).clip(8, 2048).astype(np.int64)
    pack = np.cumsum(lengths) // 2048
    work = 2048 + np.bincount(pack, weights=lengths.astype(float) ** 2) / 1000
    steps = RowSchedule(
        np.ones(len(work), np.int64), global_batch_size=32, micro_batch_size=1, seed=0, epochs=1, costs=work
    )
    skews, in_turns = [], []
    for step in steps:
        costs = np.array(step.costs)
        if len(costs) < 32:  # the last step has what is left
            continue
        loads = [sum(work[rows].sum() for rows, counts in step.of_rank(rank, 4) if counts) for rank in range(4)]
        skews.append(max(loads) / np.mean(loads))
        in_turns.append(max(costs[rank::4].sum() for rank in range(4)) * 4 / costs.sum())
    assert max(skews) < 1.05
    assert max(skews) < max(in_turns)


def test_a_step_beyond_the_last() -> None:
    with pytest.raises(IndexError):
        schedule(3, epochs=1)[1]


@pytest.mark.parametrize(("pad_to", "padding"), [("none", 0), ("longest", 3), ("seq-length", 11)])
def test_padding_of_unpacked_rows(pad_to: str, padding: int) -> None:
    rows = [
        PackedSequence(np.ones(n, np.int32), np.ones(n, np.int32), np.array([0, n], np.int32), 0) for n in (2, 5, 9)
    ]
    reader = BatchReader(rows, MaskMode.BLOCK_CAUSAL, pad_to, seq_length=9)  # type: ignore[arg-type]
    batch = reader(np.array([0, 1]))
    assert (batch.num_tokens, batch.num_padding) == (7, padding)


def test_a_batch_that_does_not_count_has_no_padding_either() -> None:
    reader = BatchReader([PackedSequence(*[np.ones(5, np.int32)] * 2, np.array([0, 5], np.int32), 0)], MaskMode.CAUSAL)
    batch = reader(np.array([0]))
    assert batch.padded(8).num_padding == 3
    idle = batch.without_labels().padded(8)
    assert idle.input_ids.shape == (1, 8) and idle.num_padding == 0
