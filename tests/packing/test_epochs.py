"""Every epoch has the same packs with other neighbours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seqpack.hooks.host import PluginHost
from seqpack.packing.epochs import for_epoch
from seqpack.packing.planning import make_plan
from seqpack.packing.validate import find_problem

STRATEGIES = {strategy.name: strategy for strategy in PluginHost([]).strategies}
LENGTHS = np.random.default_rng(0).integers(1, 100, 5000)


def pairs(plan) -> set[frozenset[int]]:
    packs = np.split(plan.sample, plan.offsets[1:-1])
    return {frozenset((int(a), int(b))) for pack in packs for a in pack for b in pack if a < b}


@pytest.mark.parametrize("name", ["balanced", "shuffle"])
def test_nearly_all_neighbours_change_and_the_number_of_packs_does_not(name):
    plan = make_plan(STRATEGIES[name], LENGTHS, seq_length=256, seed=0)
    epochs = [for_epoch(plan, epoch, seed=7) for epoch in range(3)]
    assert epochs[0] is plan
    assert {len(epoch) for epoch in epochs} == {len(plan)}
    for first, second in ((0, 1), (1, 2), (0, 2)):
        kept = pairs(epochs[first]) & pairs(epochs[second])
        assert len(kept) < 0.05 * len(pairs(plan))


def test_an_epoch_depends_on_its_number_and_the_seed_alone():
    plan = make_plan(STRATEGIES["balanced"], LENGTHS, seq_length=256, seed=0)
    one, again, other = (for_epoch(plan, 1, seed=seed).sample.tolist() for seed in (7, 7, 8))
    assert one == again != other


def test_aligned_samples_change_places_with_those_of_their_aligned_length():
    plan = make_plan(STRATEGIES["bfd"], LENGTHS, seq_length=256, seed=0, align=8)
    other = for_epoch(plan, 1, seed=0)
    assert find_problem(other, LENGTHS, seq_length=256) == "" and other.align == 8
    assert sorted(other.taken()) == sorted(plan.taken())


def test_a_plan_that_cuts_stays_as_it_is():
    plan = make_plan(STRATEGIES["wrapped"], LENGTHS, seq_length=256, seed=0)
    assert for_epoch(plan, 1, seed=0) is plan


def test_packs_stay_where_they_are():
    plan = make_plan(STRATEGIES["balanced"], LENGTHS, seq_length=256, seed=0)
    assert for_epoch(plan, 1, seed=7).length.tolist() == plan.length.tolist()


def test_samples_of_different_groups_do_not_change_places():
    plan = make_plan(STRATEGIES["balanced"], LENGTHS, seq_length=256, seed=0)
    groups = np.arange(len(LENGTHS)) % 3
    other = for_epoch(plan, 1, seed=7, groups=groups)
    assert groups[other.sample].tolist() == groups[plan.sample].tolist()
    assert other.sample.tolist() != plan.sample.tolist() and sorted(other.sample) == list(range(len(LENGTHS)))


def test_samples_that_a_plan_leaves_out_stay_out():
    plan = make_plan(STRATEGIES["bfd"], LENGTHS[::2], seq_length=256, seed=0)
    plan = dataclasses.replace(plan, sample=plan.sample * 2, lengths=LENGTHS)
    other = for_epoch(plan, 1, seed=7)
    assert sorted(other.sample) == list(range(0, len(LENGTHS), 2))
    assert sorted(other.fill()) == sorted(plan.fill())
