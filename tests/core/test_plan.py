"""Plans as arrays say the same as plans as lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.plan import PackPlan


def packs(plan: PackPlan) -> list[list[int]]:
    return [part.tolist() for part in np.split(plan.sample, plan.offsets[1:-1])] if len(plan) else []


@st.composite
def some_packs(draw):
    """Lengths, and their samples dealt out to packs in any order."""
    lengths = draw(st.lists(st.integers(1, 9), max_size=12))
    order = draw(st.permutations(range(len(lengths))))
    dealt: list[list[int]] = []
    for sample in order:
        if not dealt or draw(st.booleans()):
            dealt.append([])
        dealt[-1].append(sample)
    return np.array(lengths, np.int64), dealt


@given(some_packs())
def test_lists_to_arrays_and_back(drawn):
    lengths, dealt = drawn
    plan = PackPlan.from_packs(dealt, lengths, seq_length=200)
    assert packs(plan) == dealt and len(plan) == len(dealt)
    assert plan.fill().tolist() == [sum(lengths[sample] for sample in pack) for pack in dealt]
    assert plan.length.tolist() == lengths[plan.sample].tolist()
    assert plan.sample.dtype == plan.offsets.dtype == np.int32 and not plan.start.any()


@given(some_packs(), st.integers(0, 99))
def test_shuffling_moves_packs_and_nothing_else(drawn, seed):
    lengths, dealt = drawn
    plan = PackPlan.from_packs(dealt, lengths, seq_length=200)
    shuffled = plan.shuffled(np.random.default_rng(seed))
    assert sorted(packs(shuffled)) == sorted(dealt)
    assert shuffled.length.tolist() == lengths[shuffled.sample].tolist()
    assert sorted(shuffled.fill().tolist()) == sorted(plan.fill().tolist())


def test_shuffling_shuffles():
    plan = PackPlan.from_packs([[n] for n in range(50)], np.ones(50, np.int64), seq_length=1)
    assert packs(plan.shuffled(np.random.default_rng(0))) != packs(plan)
