"""Packs dealt to ranks: each once, and the slowest rank hardly slower than the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.hooks.host import PluginHost
from seqpack.packing.planning import make_plan
from seqpack.packing.ranks import deal_to_ranks, lost_time, pack_costs, rank_costs

COSTS = st.lists(st.integers(1, 1000), max_size=200).map(lambda values: np.array(values, np.float64))
BALANCED = next(strategy for strategy in PluginHost([]).strategies if strategy.name == "balanced")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(COSTS, st.integers(1, 8), st.integers(1, 4))
def test_every_pack_is_dealt_once(cost, ranks, accumulation):
    dealt = deal_to_ranks(cost, ranks=ranks, accumulation=accumulation, rng=rng())
    steps = len(cost) // (ranks * accumulation)
    assert dealt.shape == (steps, ranks, accumulation)
    assert sorted(dealt.ravel().tolist()) == list(range(steps * ranks * accumulation))


@given(COSTS, st.integers(1, 4), st.integers(1, 4))
def test_packs_stay_near_their_place(cost, ranks, accumulation):
    """Packs move within windows of 32 micro-steps, rounded up to whole steps."""
    dealt = deal_to_ranks(cost, ranks=ranks, accumulation=accumulation, rng=rng())
    window = -(-32 // accumulation)
    for step, packs in enumerate(dealt):
        assert (packs // (ranks * accumulation * window) == step // window).all()


def test_by_hand():
    cost = np.array([9.0, 1, 2, 8, 7, 3])
    dealt = deal_to_ranks(cost, ranks=2, accumulation=3, rng=rng())
    assert sorted(rank_costs(cost, dealt)[0].tolist()) in ([13, 17], [14, 16], [15, 15])
    assert lost_time(np.array([[1.0, 3.0], [2.0, 2.0]])) == pytest.approx(1 - 4 / 5)
    assert lost_time(np.zeros((0, 8))) == 0


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8, 16])
def test_the_slowest_of_8_ranks_waits_for_next_to_nothing(accumulation):
    lengths = np.clip(np.random.default_rng(0).lognormal(6.5, 1.1, 100_000), 8, 32768).astype(np.int32)
    cost = pack_costs(make_plan(BALANCED, lengths, seq_length=32768, seed=0))
    plain = np.arange(len(cost) // 8 * 8).reshape(-1, 8, 1)
    dealt = deal_to_ranks(cost, ranks=8, accumulation=accumulation, rng=rng())
    assert lost_time(rank_costs(cost, plain)) > 0.08
    assert lost_time(rank_costs(cost, dealt)) < 0.015
