"""The cutting-stock problem by column generation: for sets without short samples, where no rule of thumb comes near.

A linear program chooses how many packs of each pattern to make; patterns that would make it better are found by a
knapsack over the prices of lengths, until there is none. Its value bounds the number of packs from below. Whole numbers
come by diving: whole parts are taken, the program is solved again for what is left, and where no pattern has a whole
part the largest fractions are rounded up. The rest is packed exactly.

Planned on the histogram with HiGHS (``pip install "seqpack-toolkit[optimal]"``): seconds at 2,048 tokens and minutes
at 32,768, whatever the number of samples. The number of rounds is limited, not the time, so that plans are the same on
a slow machine.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DeviceError
from seqpack.core.plan import Integers, PackPlan
from seqpack.packing.best_fit import best_fit
from seqpack.packing.bounds import lower_bound
from seqpack.packing.exact import exact, fewest
from seqpack.packing.lengths import histogram
from seqpack.packing.patterns import Ints, Patterns

WORK = 4e9
"""Knapsack cells that may be computed in all: about a minute."""
COLUMNS_A_ROUND = 200
Pattern = dict[int, int]
Floats = NDArray[np.float64]


class Optimal:
    """The fewest packs, within 0.01 % of the linear program; in random order."""

    takes_any_integer = True
    is_slow = True

    @staticmethod
    def check_installed() -> None:
        """DeviceError if the solver is not installed."""
        _solver()

    def plan(self, lengths: Integers, *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        counts = histogram(lengths, seq_length)
        patterns = optimal(counts, seq_length)
        return patterns.fill_with(lengths, counts, seq_length=seq_length, rng=rng)


def optimal(counts: Ints, capacity: int) -> Patterns:
    """Patterns for so many samples of each length; DeviceError if the solver is not installed."""
    start = fewest(counts, capacity)
    if start.num_packs <= lower_bound(counts, capacity):
        return start
    master = _Master(counts, capacity)
    for plan in (start, best_fit(counts, capacity), exact(counts, capacity)):
        master.add_patterns(plan)
    found, left = master.dive()
    rest = fewest(left, capacity)
    made = Patterns.of(found).together(rest)
    return min(made, start, key=lambda patterns: patterns.num_packs)


def linear_bound(counts: Ints, capacity: int, start: Patterns) -> float:
    """The value of the linear program, which no plan is below; ``start`` holds patterns to begin with."""
    master = _Master(counts, capacity)
    master.add_patterns(start)
    return master.solve().value


def _solver() -> Any:
    try:
        import highspy
    except ImportError as error:
        raise DeviceError(
            "SP506",
            "strategy 'optimal' needs the solver HiGHS, which is not installed",
            help='pip install "seqpack-toolkit[optimal]", or choose --strategy exact',
        ) from error
    return highspy


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Keep what a library prints out of standard output, where the result of the command goes."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True, slots=True)
class _Solution:
    value: float
    packs: Floats
    price: Floats


class _Master:
    """The linear program: a row for each length, a column for each pattern."""

    def __init__(self, counts: Ints, capacity: int) -> None:
        highspy = _solver()
        self.capacity = capacity
        self.left = counts.copy()
        self.lengths = np.flatnonzero(counts)
        self.row = {length: row for row, length in enumerate(self.lengths.tolist())}
        self.columns: list[Pattern] = []
        self._known: set[tuple[tuple[int, int], ...]] = set()
        self._infinity = highspy.kHighsInf
        with _no_output():
            self._program = highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("solver", "simplex"), ("random_seed", 0)):
            self._program.setOptionValue(option, value)
        none = np.zeros(0, np.int32)
        for length in self.lengths.tolist():
            self._program.addRow(float(counts[length]), self._infinity, 0, none, none.astype(float))
        self._rounds = max(30, int(WORK / (len(self.lengths) * capacity)))

    def add_patterns(self, patterns: Patterns) -> None:
        begin = 0
        for end in patterns.ends.tolist():
            pattern: Pattern = {}
            for length, times in zip(
                patterns.length[begin:end].tolist(), patterns.times[begin:end].tolist(), strict=True
            ):
                pattern[length] = pattern.get(length, 0) + times
            self._add(pattern)
            begin = end

    def _add(self, pattern: Pattern) -> bool:
        key = tuple(sorted(pattern.items()))
        if key in self._known:
            return False
        self._known.add(key)
        self.columns.append(pattern)
        rows = np.array([self.row[length] for length, _ in key], np.int32)
        self._program.addCol(1.0, 0.0, self._infinity, len(rows), rows, np.array([times for _, times in key], float))
        return True

    def dive(self) -> tuple[list[tuple[int, Pattern]], Ints]:
        """Numbers of packs of patterns, and the samples that are left over."""
        found: list[tuple[int, Pattern]] = []
        while self.left.any():
            solution = self.solve()
            taken = self._take(np.floor(solution.packs + 1e-6).astype(np.int64), found)
            if not taken:
                taken = self._round_up(solution.packs, found)
            if not taken:
                break
            self._lower_demand()
        return found, self.left

    def _take(self, packs: Ints, found: list[tuple[int, Pattern]]) -> int:
        taken = 0
        for column in np.flatnonzero(packs).tolist():
            pattern = self.columns[column]
            most = min(int(packs[column]), *(int(self.left[length]) // times for length, times in pattern.items()))
            if most:
                for length, times in pattern.items():
                    self.left[length] -= most * times
                found.append((most, pattern))
                taken += most
        return taken

    def _round_up(self, packs: Floats, found: list[tuple[int, Pattern]]) -> int:
        """A tenth of the fractions, the largest ones, as whole packs."""
        largest = np.argsort(-packs, kind="stable")[: max(1, int((packs > 1e-6).sum()) // 10)]
        up = np.zeros(len(packs), np.int64)
        up[largest] = 1
        return self._take(up, found)

    def _lower_demand(self) -> None:
        for row, length in enumerate(self.lengths.tolist()):
            self._program.changeRowBounds(row, float(self.left[length]), self._infinity)

    def solve(self) -> _Solution:
        """The program's optimum over all patterns, or over those known when the rounds are used up."""
        bound = 0.0
        while True:
            self._program.run()
            solved = self._program.getSolution()
            value = self._program.getInfo().objective_function_value
            price = np.array(solved.row_dual)
            if self._rounds <= 0:
                break
            self._rounds -= 1
            worth = self._price(price)
            bound = max(bound, value / max(worth, 1.0))
            if worth <= 1 + 1e-7 or math.ceil(bound - 1e-6) >= math.ceil(value - 1e-6):
                break
        return _Solution(value, np.array(solved.col_value), price)

    def _price(self, price: Floats) -> float:
        """Add the patterns that are worth most at these prices; returns what the best one is worth."""
        best, choice = _knapsack(self.lengths, price, self.capacity)
        with_one = price + best[self.capacity - self.lengths]
        order = np.argsort(-with_one, kind="stable")[:COLUMNS_A_ROUND]
        added = 0
        for row in order[with_one[order] > 1 + 1e-7].tolist():
            length = int(self.lengths[row])
            pattern = _contents(choice, self.lengths, self.capacity - length)
            pattern[length] = pattern.get(length, 0) + 1
            added += self._add(pattern)
        return float(with_one[order[0]]) if added else 1.0


def _knapsack(lengths: Ints, price: Floats, capacity: int) -> tuple[Floats, NDArray[np.int32]]:
    """The most that lengths with these prices are worth in every room, and the row of the last one put in, or -1."""
    best = np.zeros(capacity + 1)
    choice = np.full(capacity + 1, -1, np.int32)
    for row in np.flatnonzero(price > 1e-12).tolist():
        length = int(lengths[row])
        # rooms that are one length apart depend on one another; a block of that many does not
        for begin in range(length, capacity + 1, length):
            here = slice(begin, min(begin + length, capacity + 1))
            offered = best[begin - length : here.stop - length] + price[row]
            better = offered > best[here] + 1e-12
            best[here][better] = offered[better]
            choice[here][better] = row
    return best, choice


def _contents(choice: NDArray[np.int32], lengths: Ints, room: int) -> Pattern:
    pattern: Pattern = {}
    while room > 0 and choice[room] >= 0:
        length = int(lengths[choice[room]])
        pattern[length] = pattern.get(length, 0) + 1
        room -= length
    return pattern
