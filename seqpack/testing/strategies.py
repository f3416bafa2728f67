"""What every packing strategy must do: properties, tried on drawn lengths and at the borders.

With hypothesis installed (``pip install hypothesis``) lengths are drawn by it, and a failure is shrunk to the smallest
one; without it, they come from a fixed generator.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PackingStrategy
from seqpack.packing.validate import find_problem

NUM_CASES = 40


class StrategyContract:
    """Subclass it and state ``target``."""

    target = ""
    """``package.module:Class``, as in the Component."""

    def make(self) -> PackingStrategy:
        """A new strategy; override it if ``target`` does not say enough."""
        component: Component[PackingStrategy] = Component("under-test", self.target, "")
        strategy: PackingStrategy = component.load()()
        return strategy

    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, seed: int = 0) -> PackPlan:
        """A plan that was checked: every sample placed once and whole, no pack over ``seq_length``, none empty."""
        plan = self.make().plan(lengths, seq_length=seq_length, rng=np.random.default_rng(seed))
        problem = find_problem(plan, lengths, seq_length=seq_length)
        assert not problem, f"{problem}; lengths {lengths.tolist()}, seq_length {seq_length}, seed {seed}"
        return plan

    def test_every_sample_is_placed_once_and_no_pack_is_too_full(self) -> None:
        for seed, (lengths, seq_length) in enumerate(_cases()):
            self.plan(lengths, seq_length=seq_length, seed=seed)

    def test_equal_seeds_give_equal_plans(self) -> None:
        for seed, (lengths, seq_length) in enumerate(_cases()):
            first = self.plan(lengths, seq_length=seq_length, seed=seed)
            again = self.plan(lengths, seq_length=seq_length, seed=seed)
            assert np.array_equal(first.sample, again.sample), f"another order at seed {seed}"
            assert np.array_equal(first.offsets, again.offsets), f"other packs at seed {seed}"

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

    def test_samples_as_long_as_a_pack_are_alone(self) -> None:
        assert len(self.plan(np.full(7, 8, np.int64), seq_length=8)) == 7

    def test_one_sample(self) -> None:
        for length in (1, 5, 8):
            assert len(self.plan(np.array([length], np.int64), seq_length=8)) == 1

    def test_no_samples(self) -> None:
        assert len(self.plan(np.zeros(0, np.int64), seq_length=8)) == 0


def _cases() -> Iterator[tuple[NDArray[np.int64], int]]:
    """Lengths of several shapes: even, mostly short, mostly full, and just over half, which leave a gap each."""
    rng = np.random.default_rng(0)
    for case in range(NUM_CASES):
        seq_length = int(rng.integers(2, 65))
        low, high = [(1, seq_length), (1, max(seq_length // 8, 1)), (max(seq_length - 2, 1), seq_length)][case % 3]
        if case % 4 == 3:
            low, high = seq_length // 2 + 1, seq_length // 2 + 1
        yield rng.integers(low, high, size=int(rng.integers(1, 200)), endpoint=True), seq_length
