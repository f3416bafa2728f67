"""A wrong plan is found whatever is wrong with it, and the plugin that made it is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError, PluginError
from seqpack.core.plan import PackPlan
from seqpack.hooks.component import Component
from seqpack.hooks.host import PluginHost
from seqpack.packing.planning import make_plan
from seqpack.packing.validate import find_problem

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
        (wrong(cut_start=[0, 0, 0], cut_length=[3, 2, 4]), "cuts samples"),
        (wrong(cut_start=[0, 0], cut_length=[3, 2]), "of every piece, or of none"),
        (wrong(cut_start=[0, 0, 0]), "of every piece, or of none"),
        (wrong(cut_start=[0, 0, 0], cut_length=[3.0, 2.0, 4.0]), "integers"),
        (PackPlan.from_packs([[0], [1, 2]], LENGTHS, seq_length=5), "pack 1 holds 6 tokens, --seq-length is 5"),
    ],
)
def test_each_kind_of_wrong_plan_is_found(plan, problem):
    assert problem in find_problem(plan, LENGTHS, seq_length=5)


CUT = dataclasses.replace(
    RIGHT, sample=np.array([0, 1, 2, 2]), offsets=np.array([0, 3, 4]), cut_start=np.array([0, 0, 0, 1])
)


@pytest.mark.parametrize(
    ("length", "problem"),
    [
        ([3, 2, 1, 3], "pack 0 holds 6 tokens"),
        ([3, 1, 1, 3], "leave some of it out"),
        ([3, 2, 1, 2], "leave some of it out"),
        ([3, 2, 2, 3], "overlap"),
        ([3, 2, 0, 4], "without tokens"),
        ([3, 2, -1, 5], "without tokens"),
    ],
)
def test_pieces_cover_each_sample_once(length, problem):
    plan = dataclasses.replace(CUT, cut_length=np.array(length))
    assert problem in find_problem(plan, LENGTHS, seq_length=5, cuts=True)
    assert "cuts samples" in find_problem(plan, LENGTHS, seq_length=5)


def test_pieces_that_cover_each_sample_are_right():
    plan = dataclasses.replace(CUT, offsets=np.array([0, 2, 4]), cut_length=np.array([3, 2, 1, 3]))
    assert find_problem(plan, LENGTHS, seq_length=5, cuts=True) == ""


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


class Negative:
    def plan(self, lengths, *, seq_length, rng):
        plan = Right().plan(lengths, seq_length=seq_length, rng=rng)
        return dataclasses.replace(plan, sample=plan.sample - 1)


class Floats:
    def plan(self, lengths, *, seq_length, rng):
        plan = Right().plan(lengths, seq_length=seq_length, rng=rng)
        return dataclasses.replace(plan, sample=plan.sample / 1)


class NegativeLengths:
    cuts_samples = True

    def plan(self, lengths, *, seq_length, rng):
        plan = Right().plan(lengths, seq_length=seq_length, rng=rng)
        return dataclasses.replace(plan, cut_start=plan.start, cut_length=-lengths)


class OwnLengths:
    def plan(self, lengths, *, seq_length, rng):
        return Right().plan(-lengths, seq_length=seq_length, rng=rng)


class FloatLengths:
    def plan(self, lengths, *, seq_length, rng):
        return Right().plan(lengths / 1, seq_length=seq_length, rng=rng)


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
        (Nothing, "not NoneType"),
        (Forgetful, "each of 3 samples exactly once"),
        (SortsInPlace, "read-only"),
        (Negative, "each of 3 samples exactly once"),
        (Floats, "integers"),
        (NegativeLengths, "without tokens"),
        (OwnLengths, "not those of the samples"),
        (FloatLengths, "lengths are float64"),
    ],
)
def test_the_plugin_of_a_wrong_strategy_is_named(strategy, problem):
    with pytest.raises(PluginError, match=problem) as error:
        make_plan(component(strategy), np.array([3, 2, 4], np.int64), seq_length=5, seed=0)
    assert error.value.code == "SP014"
    assert "'tight'" in error.value.message and "'acme'" in error.value.message


def test_the_seed_reaches_the_strategy():
    best_fit = Component("best-fit", "seqpack.packing.best_fit:BestFit", "", plugin="seqpack")
    lengths = np.full(40, 5, np.int64)
    one, again, other = (make_plan(best_fit, lengths, seq_length=5, seed=seed).sample.tolist() for seed in (1, 1, 2))
    assert one == again != other


STRATEGIES = list(PluginHost([]).strategies)
BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}
SETS = st.lists(st.integers(1, 24), max_size=60).map(lambda values: np.array(values, np.int32))


@pytest.mark.parametrize(
    ("lengths", "code"),
    [([3, 0], "SP116"), ([3, -1], "SP116"), ([1.5], "SP116"), ([[1]], "SP116"), ([3, 6], "SP108")],
)
def test_lengths_that_cannot_be_planned_are_refused(lengths, code):
    with pytest.raises(DataError) as error:
        make_plan(component(Right), np.array(lengths), seq_length=5, seed=0)
    assert error.value.code == code


def test_a_plugin_gets_int64_whatever_the_width():
    seen = []

    class Looks(Right):
        def plan(self, lengths, **options):
            seen.append(lengths.dtype)
            return super().plan(lengths, **options)

    globals()["Looks"] = Looks
    make_plan(component(Looks), LENGTHS.astype(np.uint16), seq_length=5, seed=0)
    assert seen == [np.int64]


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s.name != "wrapped"], ids=lambda s: s.name)
@given(lengths=SETS, align=st.sampled_from([1, 3, 8]))
@settings(deadline=None, max_examples=25)
def test_aligned_samples_fit_and_keep_their_lengths(strategy, lengths, align):
    plan = make_plan(strategy, lengths, seq_length=24, seed=0, align=align)
    assert (plan.taken() <= 24).all() and plan.align == align
    assert plan.length.tolist() == lengths[plan.sample].tolist()
    assert plan.padding == len(plan) * 24 - lengths.sum()
    assert find_problem(plan, lengths, seq_length=24) == ""


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
@given(lengths=SETS, max_docs=st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_no_pack_has_more_samples_than_allowed(strategy, lengths, max_docs):
    if strategy.name in {"wrapped", "optimal"}:
        with pytest.raises(ConfigError, match="cannot limit"):
            make_plan(strategy, lengths, seq_length=24, seed=0, max_docs=max_docs)
        return
    plan = make_plan(strategy, lengths, seq_length=24, seed=0, max_docs=max_docs)
    assert np.diff(plan.offsets).max(initial=0) <= max_docs


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
@given(lengths=SETS)
@settings(deadline=None, max_examples=25)
def test_a_window_that_holds_all_changes_nothing(strategy, lengths):
    whole = make_plan(strategy, lengths, seq_length=24, seed=3)
    windowed = make_plan(strategy, lengths, seq_length=24, seed=3, pack_window=len(lengths) + 1)
    assert np.array_equal(whole.sample, windowed.sample) and np.array_equal(whole.offsets, windowed.offsets)


@pytest.mark.parametrize("name", ["bfd", "ffd", "balanced", "wrapped"])
@given(lengths=SETS, window=st.integers(1, 20))
@settings(deadline=None, max_examples=25)
def test_no_pack_reaches_over_its_window(name, lengths, window):
    plan = make_plan(BY_NAME[name], lengths, seq_length=24, seed=3, pack_window=window)
    for first, last in zip(plan.offsets[:-1], plan.offsets[1:], strict=True):
        assert len(set((plan.sample[first:last] // window).tolist())) == 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
@given(lengths=st.lists(st.integers(1, 60), max_size=40).map(lambda values: np.array(values, np.int32)))
@settings(deadline=None, max_examples=25)
def test_samples_longer_than_a_pack_are_split(strategy, lengths):
    plan = make_plan(strategy, lengths, seq_length=16, seed=0, split=True)
    assert find_problem(plan, lengths, seq_length=16, cuts=True) == ""
    assert plan.fill().sum() == lengths.sum()


def test_options_that_do_not_go_together():
    with pytest.raises(ConfigError, match="multiple of --align"):
        make_plan(BY_NAME["bfd"], LENGTHS, seq_length=5, seed=0, align=2)
    with pytest.raises(ConfigError, match="cuts samples"):
        make_plan(BY_NAME["wrapped"], LENGTHS, seq_length=6, seed=0, align=2)
    with pytest.raises(ConfigError, match="cannot limit"):
        make_plan(component(Right), LENGTHS, seq_length=5, seed=0, max_docs=2)
