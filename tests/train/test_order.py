from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.train.order import BLOCK_ROWS, RowStream


def stream(*sizes: int, seed: int = 0, shuffle: bool = True, **given: object) -> RowStream:
    starts = np.cumsum([0, *sizes])
    pools = [np.arange(a, a + size) for a, size in zip(starts, sizes, strict=False)]
    return RowStream(pools, seed=seed, shuffle=shuffle, **given)  # type: ignore[arg-type]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 3 * BLOCK_ROWS), min_size=2, max_size=2).map(sorted),
    weighted=st.booleans(),
    shuffle=st.booleans(),
)
def test_any_stretch_is_that_of_the_whole_stream(
    sizes: list[int], cuts: list[int], weighted: bool, shuffle: bool
) -> None:
    weights = [1 / len(sizes)] * len(sizes) if weighted else None
    whole = stream(*sizes, shuffle=shuffle, weights=weights).take(0, 3 * BLOCK_ROWS)
    first, last = cuts
    if first < last:
        part = stream(*sizes, shuffle=shuffle, weights=weights).take(first, last)
        assert part.tolist() == whole[first:last].tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.001, 0.999), (1 / 3, 2 / 3)])
def test_shares_hold_and_every_set_goes_round_by_itself(weights: tuple[float, float], shuffle: bool) -> None:
    rows = stream(10, 1000, weights=weights, shuffle=shuffle).take(0, 5 * BLOCK_ROWS)
    small = rows[rows < 10]
    assert abs(len(small) - weights[0] * len(rows)) <= 1
    counts = Counter(small.tolist())
    assert max(counts.values()) - min(counts.values() if len(counts) == 10 else [0]) <= 1
    assert max(Counter(rows[rows >= 10].tolist()).values()) <= -(-len(rows) // 1000) + 1


def test_without_shuffling_shares_are_spread_evenly() -> None:
    rows = stream(100, 100, weights=(0.75, 0.25), shuffle=False).take(0, 400)
    of_first = (rows < 100).reshape(-1, 8).sum(axis=1)
    assert set(of_first.tolist()) <= {5, 6, 7}


def test_padded_samples_fill_the_epoch_with_the_first_rows() -> None:
    padded = stream(5, shuffle=False, multiple_of=4)
    assert padded.epoch_rows == 8
    assert padded.take(0, 16).tolist() == [0, 1, 2, 3, 4, 0, 1, 2] * 2
    assert Counter(stream(5, multiple_of=4).take(0, 8).tolist()) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}


def test_two_sets_without_weights_are_one() -> None:
    assert sorted(stream(3, 4).take(0, 7).tolist()) == list(range(7))
