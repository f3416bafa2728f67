"""Plans by hand, against textbooks, and what each strategy promises beyond the contract suite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.plan import PackPlan
from seqpack.hooks.host import PluginHost
from seqpack.packing.best_fit import BestFit
from seqpack.packing.bounds import lower_bound
from seqpack.packing.exact import Exact
from seqpack.packing.first_fit import FirstFit
from seqpack.packing.lengths import histogram
from seqpack.packing.optimal import Optimal
from seqpack.packing.quality import assess
from seqpack.packing.sequential import Sequential
from seqpack.packing.validate import find_problem
from seqpack.packing.wrapped import Wrapped
from tests.packing.textbook import best_fit_decreasing, fewest_packs, first_fit_decreasing

STRATEGIES = {component.name: component.load() for component in PluginHost([]).strategies}
KEEPS_ORDER = {"sequential", "wrapped"}
SEQ_LENGTH = 32
LENGTHS = st.lists(st.integers(1, SEQ_LENGTH), max_size=80)


def make(strategy, lengths, *, seq_length: int = SEQ_LENGTH, seed: int = 0) -> PackPlan:
    return strategy().plan(np.array(lengths, np.int64), seq_length=seq_length, rng=np.random.default_rng(seed))


def packs(plan: PackPlan) -> list[list[int]]:
    return [part.tolist() for part in np.split(plan.sample, plan.offsets[1:-1])] if len(plan) else []


def contents(plan: PackPlan) -> list[list[int]]:
    return sorted(sorted(plan.lengths[pack].tolist()) for pack in packs(plan))


def lognormal(samples: int = 20_000, seq_length: int = 4096) -> np.ndarray:
    lengths = np.random.default_rng(0).lognormal(5, 1, samples).astype(np.int64)
    return np.clip(lengths, 1, seq_length)


def test_the_nine_strategies_and_their_names():
    names = {component.name: component.aliases for component in PluginHost([]).strategies}
    assert names == {
        "balanced": ("deal",),
        "bfd": ("best-fit", "best_fit_decreasing"),
        "ffd": ("greedy", "greedy_knapsack", "knapsack"),
        "exact": (),
        "optimal": ("cutting_stock",),
        "shuffle": ("first_fit_shuffle",),
        "sequential": ("next_fit",),
        "wrapped": ("concat",),
        "stream": ("online",),
    }


@pytest.mark.parametrize("name", ["bfd", "ffd", "exact", "stream", "optimal"])
@given(lengths=LENGTHS, seed=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_a_seed_changes_neither_number_nor_contents_of_packs(name, lengths, seed):
    assert contents(make(STRATEGIES[name], lengths, seed=seed)) == contents(make(STRATEGIES[name], lengths))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize(
    ("lengths", "num_packs"), [([], 0), ([1], 1), ([32], 1), ([32] * 3, 3), ([1] * 64, 2), ([1] * 65, 3)]
)
def test_number_of_packs_at_the_borders(name, lengths, num_packs):
    assert len(make(STRATEGIES[name], lengths)) == num_packs


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 2, 4, 1], [[0, 1], [2, 3]]),
        ([3, 3, 2], [[0], [1, 2]]),
        ([5, 1, 5], [[0], [1], [2]]),
        ([1, 1, 1, 1, 1, 1], [[0, 1, 2, 3, 4], [5]]),
    ],
)
def test_sequential_by_hand(lengths, expected):
    assert packs(make(Sequential, lengths, seq_length=5)) == expected


@given(LENGTHS)
def test_sequential_keeps_the_order_and_opens_a_pack_only_when_it_must(lengths):
    plan = make(Sequential, lengths)
    assert plan.sample.tolist() == list(range(len(lengths)))
    for filled, first in zip(plan.fill(), plan.offsets[1:-1], strict=False):
        assert filled + lengths[first] > SEQ_LENGTH


def test_wrapped_by_hand():
    plan = make(Wrapped, [3, 4, 5], seq_length=5)
    assert packs(plan) == [[0, 1], [1, 2], [2]]
    assert plan.start.tolist() == [0, 0, 2, 0, 3] and plan.length.tolist() == [3, 2, 2, 3, 2]


@given(st.lists(st.integers(1, 100), max_size=40))
def test_wrapped_leaves_only_the_last_pack_open(lengths):
    plan = make(Wrapped, lengths)
    assert (plan.fill()[:-1] == SEQ_LENGTH).all() and len(plan) == -(-sum(lengths) // SEQ_LENGTH)
    placed = [
        (sample, token)
        for sample, start, length in zip(plan.sample, plan.start, plan.length, strict=True)
        for token in range(start, start + length)
    ]
    assert placed == [(sample, token) for sample, length in enumerate(lengths) for token in range(length)]


@given(st.lists(st.integers(1, 40), max_size=120), st.integers(20, 40))
@settings(deadline=None, max_examples=200)
def test_decreasing_packers_are_those_of_the_textbook(lengths, seq_length):
    lengths = [min(length, seq_length) for length in lengths]
    best, first = make(BestFit, lengths, seq_length=seq_length), make(FirstFit, lengths, seq_length=seq_length)
    assert sorted(best.fill()) == sorted(map(sum, best_fit_decreasing(lengths, seq_length)))
    assert contents(first) == sorted(map(sorted, first_fit_decreasing(lengths, seq_length)))


@pytest.mark.parametrize("seq_length", [256, 2048])
def test_decreasing_packers_are_those_of_the_textbook_on_many_lengths(seq_length):
    lengths = np.clip(lognormal(2000), 1, seq_length).tolist()
    best, first = make(BestFit, lengths, seq_length=seq_length), make(FirstFit, lengths, seq_length=seq_length)
    assert sorted(best.fill()) == sorted(map(sum, best_fit_decreasing(lengths, seq_length)))
    assert contents(first) == sorted(map(sorted, first_fit_decreasing(lengths, seq_length)))


@given(st.lists(st.integers(1, 12), max_size=9))
@settings(deadline=None)
def test_the_bound_is_one_and_optimal_reaches_the_best(lengths):
    counts = histogram(np.array(lengths, np.int64), 12)
    fewest = fewest_packs(lengths, 12)
    assert lower_bound(counts, 12) <= fewest <= len(make(Exact, lengths, seq_length=12))
    assert fewest <= len(make(Optimal, lengths, seq_length=12)) <= fewest + 1


def test_the_bound_sees_that_large_samples_exclude_one_another():
    assert lower_bound(histogram(np.array([6, 6, 6, 5, 5]), 10), 10) == 4


@pytest.mark.parametrize("name", ["balanced", "exact", "bfd", "ffd", "stream"])
def test_next_to_nothing_is_wasted_on_real_lengths(name):
    plan = make(STRATEGIES[name], lognormal(), seq_length=4096)
    assert len(plan) <= 1.001 * -(-lognormal().sum() // 4096)


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - KEEPS_ORDER))
def test_packs_do_not_go_from_long_to_short(name):
    lengths = np.random.default_rng(0).integers(20, 1000, 3000)
    plan = make(STRATEGIES[name], lengths, seq_length=1000)
    longest = np.maximum.reduceat(plan.length, plan.offsets[:-1])
    half = len(longest) // 2
    assert abs(longest[:half].mean() / longest[half:].mean() - 1) < 0.1


@pytest.mark.parametrize("name", ["balanced", "shuffle"])
def test_files_are_mixed_as_well_as_lengths(name):
    """Samples of equal lengths in two files: packs hold both, not the first file's samples and then the second's."""
    lengths = np.tile(lognormal(5000, 2048), 2)
    plan = make(STRATEGIES[name], lengths, seq_length=2048)
    from_second = np.add.reduceat(plan.sample >= 5000, plan.offsets[:-1]) / np.diff(plan.offsets)
    assert from_second.std() < 0.25


@given(seed=st.integers(0, 1000), samples=st.integers(20, 120), longest=st.sampled_from([512, 900]))
def test_few_mixed_packs_are_no_more_than_those_of_best_fit(seed, samples, longest):
    """A thousandth of the packs is less than one here."""
    lengths = np.random.default_rng(seed).integers(257, longest, samples, endpoint=True)
    balanced, decreasing = (make(STRATEGIES[name], lengths, seq_length=1024) for name in ("balanced", "bfd"))
    assert len(balanced) <= len(decreasing)


@pytest.mark.parametrize(("samples", "worse"), [(100, 0.03), (300, 0.02), (3000, 0.005)])
def test_random_first_fit_of_few_samples_is_that_of_the_textbook(samples, worse):
    lengths = np.random.default_rng(samples).integers(1, 2048, samples)
    found = np.mean([len(make(STRATEGIES["shuffle"], lengths, seq_length=2048, seed=seed)) for seed in range(5)])
    textbook = np.mean([num_first_fit(np.random.default_rng(seed).permutation(lengths), 2048) for seed in range(5)])
    assert found <= (1 + worse) * textbook


def num_first_fit(lengths, seq_length: int) -> int:
    """Packs of first-fit, sample by sample."""
    rooms: list[int] = []
    for length in lengths.tolist():
        pack = next((pack for pack, room in enumerate(rooms) if room >= length), None)
        if pack is None:
            rooms.append(seq_length - length)
        else:
            rooms[pack] -= length
    return len(rooms)


@pytest.mark.parametrize("seed", [0, 1])
def test_mixed_packs_are_no_more_than_those_of_best_fit(seed):
    """Where dealing alone leaves gaps: without packing the emptiest again there would be two packs more."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(6.5, 1.1, 52_000), 8, 2048).astype(np.int64)
    balanced, decreasing = (make(STRATEGIES[name], lengths, seq_length=2048) for name in ("balanced", "bfd"))
    assert len(balanced) <= len(decreasing)
    assert assess(balanced).design_effect < 1.3 < assess(decreasing).design_effect
    assert find_problem(balanced, lengths, seq_length=2048) == ""


def test_balanced_packs_cost_the_same_and_are_mixed():
    lengths = lognormal(seq_length=2048)
    balanced, decreasing = (make(STRATEGIES[name], lengths, seq_length=2048) for name in ("balanced", "bfd"))

    def spread(plan: PackPlan) -> float:
        cost = np.add.reduceat(plan.length.astype(float) ** 2, plan.offsets[:-1])
        return float(cost.std() / cost.mean())

    assert spread(balanced) < 0.85 * spread(decreasing)


def test_a_million_equal_plans_cost_what_their_histogram_costs():
    counts = np.zeros(2049, np.int64)
    counts[[100, 700, 1948]] = 10**12
    from seqpack.packing.balanced import balanced

    assert balanced(counts, 2048).num_packs >= 10**12
