"""The measures of a plan, by hand and by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.plan import PackPlan
from seqpack.hooks.host import PluginHost
from seqpack.packing.planning import make_plan
from seqpack.packing.quality import assess

STRATEGIES = {strategy.name: strategy for strategy in PluginHost([]).strategies}


def test_by_hand():
    quality = assess(PackPlan.from_packs([[0, 1], [2, 3], [4]], np.array([4, 4, 2, 2, 6]), seq_length=8))
    assert (quality.packs, quality.lower_bound, quality.over, quality.fill) == (3, 3, 0.0, 18 / 24)
    costs = np.array([32, 8, 36])
    assert quality.cost_cv == pytest.approx(costs.std() / costs.mean())


def test_packs_of_one_length_each_have_the_largest_design_effect():
    lengths = np.repeat([2, 4, 8], [8, 4, 2])
    alike = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11], [12], [13]]
    mixed = [[0, 1, 8], [2, 3, 9], [4, 5, 10], [6, 7, 11], [12], [13]]
    effects = [assess(PackPlan.from_packs(packs, lengths, seq_length=8)).design_effect for packs in (alike, mixed)]
    docs = len(lengths) / len(alike)
    assert effects[0] == pytest.approx(docs, rel=0.05)  # correlation 1 inside a pack
    assert effects[1] < effects[0]


def test_a_random_draw_has_a_design_effect_of_one():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 1000, 40_000)
    packs = rng.permutation(40_000).reshape(-1, 10)
    quality = assess(PackPlan.from_packs(packs.tolist(), lengths, seq_length=10_000))
    assert quality.design_effect == pytest.approx(1, abs=0.05)


def test_of_cut_samples_only_the_tokens_count():
    lengths = np.array([9, 9, 9])
    quality = assess(make_plan(STRATEGIES["wrapped"], lengths, seq_length=10, seed=0))
    assert (quality.packs, quality.lower_bound) == (3, 3)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(lengths=st.lists(st.integers(1, 30), max_size=60), align=st.sampled_from([1, 5]))
def test_no_plan_is_below_the_bound(name, lengths, align):
    align = 1 if name == "wrapped" else align
    plan = make_plan(STRATEGIES[name], np.array(lengths, np.int32), seq_length=30, seed=0, align=align)
    quality = assess(plan)
    assert quality.packs >= quality.lower_bound and quality.over >= 0
    assert 0 < quality.fill <= 1 and quality.cost_cv >= 0 and 0 <= quality.dp8 < 1
