"""A wrong plan is found whatever is wrong with it, and the plugin that made it is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seqpack.core.errors import PluginError
from seqpack.core.plan import PackPlan
from seqpack.hooks.component import Component
from seqpack.packing.planning import find_problem, make_plan

LENGTHS = np.array([3, 2, 4], np.int64)
RIGHT = PackPlan.from_packs([[0, 1], [2]], LENGTHS, seq_length=5)


def wrong(**values) -> PackPlan:
    arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in values.items()}
    return dataclasses.replace(RIGHT, **arrays)


def test_a_right_plan_has_no_problem():
    assert find_problem(RIGHT, LENGTHS, seq_length=5) == ""
    empty = np.zeros(0, np.int64)
    assert find_problem(PackPlan.from_packs([], empty, seq_length=5), empty, seq_length=5) == ""


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (wrong(seq_length=6), "for --seq-length 6, not 5"),
        (wrong(sample=[0.0, 1.0, 2.0]), "integers"),
        (wrong(offsets=[0.0, 2.0, 3.0]), "integers"),
        (wrong(offsets=[1, 2, 3]), "offsets"),
        (wrong(offsets=[0, 2]), "offsets"),
        (wrong(offsets=np.zeros(0, np.int64)), "offsets"),
        (wrong(offsets=[0, 2, 2, 3]), "empty"),
        (wrong(offsets=[0, 3, 2, 3]), "empty"),
        (wrong(sample=[0, 1, 1]), "exactly once"),
        (wrong(sample=[0, 1, 3]), "exactly once"),
        (wrong(sample=[0, 1, -1]), "exactly once"),
        (PackPlan.from_packs([[0, 1]], LENGTHS, seq_length=5), "exactly once"),
        (PackPlan.from_packs([[0, 1], [2], [0]], LENGTHS, seq_length=5), "exactly once"),
        (wrong(length=[3, 1, 4]), "whole sample"),
        (wrong(length=[3, 2]), "whole sample"),
        (wrong(start=[0, 1, 0]), "whole sample"),
        (wrong(start=[0, 0]), "whole sample"),
        (PackPlan.from_packs([[0], [1, 2]], LENGTHS, seq_length=5), "pack 1 holds 6 tokens, --seq-length is 5"),
    ],
)
def test_each_kind_of_wrong_plan_is_found(plan, problem):
    assert problem in find_problem(plan, LENGTHS, seq_length=5)


class Right:
    def plan(self, lengths, *, seq_length, rng):
        return PackPlan.from_packs([[sample] for sample in range(len(lengths))], lengths, seq_length=seq_length)


class Failing:
    def plan(self, lengths, *, seq_length, rng):
        raise ZeroDivisionError("by three")


class FailingConstructor:
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Nothing:
    def plan(self, lengths, *, seq_length, rng):
        return None


class Forgetful:
    def plan(self, lengths, *, seq_length, rng):
        return Right().plan(lengths[1:], seq_length=seq_length, rng=rng)


class SortsInPlace:
    """Would pass the check, which would compare with the sorted lengths, and cut samples apart."""

    def plan(self, lengths, *, seq_length, rng):
        lengths.sort()
        return Right().plan(lengths, seq_length=seq_length, rng=rng)


def component(strategy: type) -> Component:
    return Component("tight", f"{__name__}:{strategy.__name__}", "", plugin="acme")


def test_a_right_strategy_gives_its_plan():
    plan = make_plan(component(Right), LENGTHS, seq_length=5, seed=0)
    assert plan.sample.tolist() == [0, 1, 2] and plan.fill().tolist() == [3, 2, 4]
    assert LENGTHS.flags.writeable


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        (Failing, "ZeroDivisionError: by three"),
        (FailingConstructor, "RuntimeError: no licence"),
        (Nothing, "AttributeError"),
        (Forgetful, "each of 3 samples exactly once"),
        (SortsInPlace, "read-only"),
    ],
)
def test_the_plugin_of_a_wrong_strategy_is_named(strategy, problem):
    with pytest.raises(PluginError, match=problem) as error:
        make_plan(component(strategy), np.array([3, 2, 4], np.int64), seq_length=5, seed=0)
    assert error.value.code == "SP014"
    assert "'tight'" in error.value.message and "'acme'" in error.value.message


def test_the_seed_reaches_the_strategy():
    best_fit = Component("best-fit", "seqpack.packing.best_fit:BestFit", "")
    lengths = np.full(40, 5, np.int64)
    one, again, other = (make_plan(best_fit, lengths, seq_length=5, seed=seed).sample.tolist() for seed in (1, 1, 2))
    assert one == again != other
