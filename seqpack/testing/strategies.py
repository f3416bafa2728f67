"""What every packing strategy must do: properties that hypothesis tries on lengths it draws, and borders by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.plan import PackPlan
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PackingStrategy
from seqpack.packing.epochs import for_epoch
from seqpack.packing.planning import make_plan
from seqpack.packing.validate import find_problem

NUM_EXAMPLES = 40
UNPLACEABLE = "a plan was made for samples that cannot be placed"
Lengths = NDArray[np.int64]


class StrategyContract:
    """Subclass it and state ``target``. Needs hypothesis (``pip install hypothesis``)."""

    target = ""
    """``package.module:Class``, as in the Component."""
    num_examples = NUM_EXAMPLES

    def make(self) -> PackingStrategy:
        """A new strategy; override it if ``target`` does not say enough."""
        strategy: PackingStrategy = self.component().load()()
        return strategy

    def component(self) -> Component[PackingStrategy]:
        return Component("under-test", self.target, "", plugin="under-test")

    @property
    def cuts(self) -> bool:
        """Whether the strategy states that it cuts samples."""
        return bool(getattr(self.make(), "cuts_samples", False))

    def plan(self, lengths: Lengths, *, seq_length: int, seed: int = 0) -> PackPlan:
        """A plan that was checked: every token placed once, no pack over ``seq_length``, none empty."""
        plan = self.make().plan(lengths, seq_length=seq_length, rng=np.random.default_rng(seed))
        problem = find_problem(plan, lengths, seq_length=seq_length, cuts=self.cuts)
        assert not problem, f"{problem}; lengths {lengths.tolist()}, seq_length {seq_length}, seed {seed}"
        return plan

    def test_every_sample_is_placed_once_and_no_pack_is_too_full(self) -> None:
        def check(lengths: Lengths, seq_length: int, seed: int) -> None:
            plan = self.plan(lengths, seq_length=seq_length, seed=seed)
            assert plan.fill().max(initial=0) <= seq_length, "a pack is too full"
            assert self.cuts or np.array_equal(np.sort(plan.sample), np.arange(len(lengths))), "not each sample once"

        self._for_all(check)

    def test_equal_seeds_give_equal_plans(self) -> None:
        def check(lengths: Lengths, seq_length: int, seed: int) -> None:
            first = self.plan(lengths, seq_length=seq_length, seed=seed)
            again = self.plan(lengths, seq_length=seq_length, seed=seed)
            assert np.array_equal(first.sample, again.sample), f"another order at seed {seed}"
            assert np.array_equal(first.offsets, again.offsets), f"other packs at seed {seed}"

        self._for_all(check)

    def test_the_ledger_balances(self) -> None:
        def check(lengths: Lengths, seq_length: int, seed: int) -> None:
            plan = self.plan(lengths, seq_length=seq_length, seed=seed)
            assert plan.fill().sum() == lengths.sum(), "tokens were lost or doubled"
            assert plan.padding + lengths.sum() == len(plan) * seq_length, "packs hold something else"

        self._for_all(check)

    def test_samples_of_equal_lengths_can_change_places(self) -> None:
        def check(lengths: Lengths, seq_length: int, seed: int) -> None:
            plan = make_plan(self.component(), lengths, seq_length=seq_length, seed=seed)
            other = for_epoch(plan, 1, seed=seed)
            problem = find_problem(other, lengths, seq_length=seq_length, cuts=self.cuts)
            assert not problem, problem
            assert _contents(other) == _contents(plan), "the next epoch has packs of other lengths"

        self._for_all(check)

    def test_integers_of_any_width_give_one_plan(self) -> None:
        def check(lengths: Lengths, seq_length: int, seed: int) -> None:
            kinds = (np.int64, np.uint16, np.int32)
            plans = [make_plan(self.component(), lengths.astype(k), seq_length=seq_length, seed=seed) for k in kinds]
            for plan in plans[1:]:
                assert np.array_equal(plan.sample, plans[0].sample), "the plan depends on the width of the lengths"

        self._for_all(check)

    def test_it_remembers_nothing(self) -> None:
        lengths = np.array([5, 3, 8, 1, 4], np.int64)
        strategy = self.make()
        first, again = (strategy.plan(lengths, seq_length=8, rng=np.random.default_rng(0)) for _ in range(2))
        assert np.array_equal(first.sample, again.sample), "a second call on one object gave another plan"

    def test_lengths_are_left_as_they_were(self) -> None:
        lengths = np.array([5, 3, 8, 1, 4], np.int64)
        before = lengths.copy()
        self.plan(lengths, seq_length=8)
        assert np.array_equal(lengths, before), "the strategy changed its input"

    def test_samples_of_one_token(self) -> None:
        assert self.plan(np.ones(20, np.int64), seq_length=8).fill().sum() == 20
        assert len(self.plan(np.ones(3, np.int64), seq_length=1)) == 3

    def test_samples_as_long_as_a_pack_are_alone(self) -> None:
        assert len(self.plan(np.full(7, 8, np.int64), seq_length=8)) == 7

    def test_a_sample_longer_than_a_pack_is_refused_or_split(self) -> None:
        lengths = np.array([3, 9, 8], np.int64)
        if not self.cuts:
            assert _is_refused(lambda: make_plan(self.component(), lengths, seq_length=8, seed=0)), UNPLACEABLE
        plan = make_plan(self.component(), lengths, seq_length=8, seed=0, split=True)
        problem = find_problem(plan, lengths, seq_length=8, cuts=True)
        assert not problem, problem

    def test_a_sample_without_tokens_is_refused(self) -> None:
        assert _is_refused(lambda: make_plan(self.component(), np.array([3, 0, 1]), seq_length=8, seed=0)), UNPLACEABLE

    def test_one_sample(self) -> None:
        for length in (1, 5, 8):
            assert len(self.plan(np.array([length], np.int64), seq_length=8)) == 1

    def test_no_samples(self) -> None:
        assert len(self.plan(np.zeros(0, np.int64), seq_length=8)) == 0

    def _for_all(self, check: Callable[[Lengths, int, int], Any]) -> None:
        """Run a check on lengths of several shapes: even, mostly short, mostly full, and just over half."""
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st
        from hypothesis.errors import Flaky

        @st.composite
        def sets(draw: st.DrawFn) -> tuple[Lengths, int]:
            seq_length = draw(st.integers(1, 64))
            shapes = [(1, seq_length), (1, max(seq_length // 8, 1)), (max(seq_length - 2, 1), seq_length)]
            low, high = draw(st.sampled_from([*shapes, (seq_length // 2 + 1,) * 2]))
            high = min(high, seq_length)
            lengths = draw(st.lists(st.integers(min(low, high), high), max_size=120))
            return np.array(lengths, np.int64), seq_length

        @settings(
            max_examples=self.num_examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(sets(), st.integers(0, 9))
        def run(drawn: tuple[Lengths, int], seed: int) -> None:
            check(drawn[0], drawn[1], seed)

        try:
            run()
        except Flaky as error:
            raise AssertionError("it fails at one call and not at the next with equal lengths and seeds") from error


def _contents(plan: PackPlan) -> list[list[int]]:
    """The lengths in each pack, as sorted lists."""
    borders = plan.offsets.tolist()
    length = plan.length.tolist()
    return sorted(sorted(length[first:last]) for first, last in itertools.pairwise(borders))


def _is_refused(plan: Callable[[], PackPlan]) -> bool:
    try:
        plan()
    except DataError:
        return True
    return False
