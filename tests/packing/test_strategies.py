"""Both strategies: what holds for every plan, plans by hand, and best-fit against the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.plan import PackPlan
from seqpack.hooks.host import PluginHost
from seqpack.packing.best_fit import BestFit
from seqpack.packing.greedy import Greedy

STRATEGIES = [component.load() for component in PluginHost([]).strategies]
SEQ_LENGTH = 32
LENGTHS = st.lists(st.integers(1, SEQ_LENGTH), max_size=80)


def make(strategy, lengths: list[int], *, seq_length: int = SEQ_LENGTH, seed: int = 0) -> PackPlan:
    return strategy().plan(np.array(lengths, np.int64), seq_length=seq_length, rng=np.random.default_rng(seed))


def packs(plan: PackPlan) -> list[list[int]]:
    return [part.tolist() for part in np.split(plan.sample, plan.offsets[1:-1])] if len(plan) else []


def test_both_are_tested():
    assert {Greedy, BestFit} == set(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_every_sample_is_placed_once_and_whole(strategy, lengths, seed):
    plan = make(strategy, lengths, seed=seed)
    dealt = packs(plan)
    assert sorted(sample for pack in dealt for sample in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[sample] for sample in pack) <= SEQ_LENGTH for pack in dealt)
    assert plan.length.tolist() == [lengths[sample] for sample in plan.sample]
    assert plan.seq_length == SEQ_LENGTH and not plan.start.any()


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_equal_seeds_give_equal_plans(strategy, lengths, seed):
    assert packs(make(strategy, lengths, seed=seed)) == packs(make(strategy, lengths, seed=seed))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=LENGTHS, seed=st.integers(1, 9))
def test_a_seed_changes_the_order_of_packs_only(strategy, lengths, seed):
    assert sorted(packs(make(strategy, lengths, seed=seed))) == sorted(packs(make(strategy, lengths)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("lengths", "num_packs"), [([], 0), ([1], 1), ([32], 1), ([32] * 3, 3), ([1] * 64, 2), ([1] * 65, 3), ([17] * 4, 4)]
)
def test_number_of_packs_at_the_borders(strategy, lengths, num_packs):
    assert len(make(strategy, lengths)) == num_packs


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 2, 4, 1], [[0, 1], [2, 3]]),
        ([3, 3, 2], [[0], [1, 2]]),
        ([5, 1, 5], [[0], [1], [2]]),
        ([1, 1, 1, 1, 1, 1], [[0, 1, 2, 3, 4], [5]]),
    ],
)
def test_greedy_by_hand(lengths, expected):
    assert packs(make(Greedy, lengths, seq_length=5)) == expected


@given(LENGTHS)
def test_greedy_keeps_the_order_and_opens_a_pack_only_when_it_must(lengths):
    plan = make(Greedy, lengths)
    assert plan.sample.tolist() == list(range(len(lengths)))
    for filled, first in zip(plan.fill(), plan.offsets[1:-1], strict=False):
        assert filled + lengths[first] > SEQ_LENGTH


def test_best_fit_by_hand():
    # 4 opens a pack, 3 another; 2 fits the second exactly although it came later; 1 fills the first.
    assert sorted(packs(make(BestFit, [1, 2, 3, 4], seq_length=5))) == [[2, 1], [3, 0]]


def textbook_fills(lengths: list[int], seq_length: int) -> list[int]:
    """Best-fit decreasing as a textbook has it: try every pack, take the fullest that still fits."""
    fills: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [fill for fill in fills if fill + length <= seq_length]
        if fitting:
            fills[fills.index(max(fitting))] += length
        else:
            fills.append(length)
    return fills


@given(st.lists(st.integers(1, 20), max_size=120))
def test_best_fit_is_the_textbook_algorithm(lengths):
    plan = make(BestFit, lengths, seq_length=20)
    assert sorted(plan.fill().tolist()) == sorted(textbook_fills(lengths, 20))


def test_best_fit_does_not_go_from_long_to_short():
    plan = make(BestFit, list(range(1, 33)) * 4)
    longest = [max(plan.length[first:last]) for first, last in zip(plan.offsets[:-1], plan.offsets[1:], strict=True)]
    assert longest != sorted(longest, reverse=True)


def test_best_fit_wastes_next_to_nothing_on_real_lengths():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5, 1, 20_000).astype(np.int64), 1, 4096)
    plan = BestFit().plan(lengths, seq_length=4096, rng=rng)
    assert len(plan) <= 1.002 * -(-lengths.sum() // 4096)
