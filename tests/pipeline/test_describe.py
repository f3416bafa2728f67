"""Describe rows and errors of parts, against plain Python and against repeated draws."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.pipeline.describe import describe, mean_error, quantile_ranges, quantiles
from seqpack.pipeline.row_sample import RowSample, parse_share

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@given(LENGTHS)
def test_the_eight_rows(lengths):
    found = describe(np.array(lengths))
    assert list(found) == ["count", "mean", "std", "min", "25%", "50%", "75%", "max"]
    assert (found["count"], found["min"], found["max"]) == (len(lengths), min(lengths), max(lengths))
    assert found["mean"] == pytest.approx(statistics.mean(lengths))
    assert found["50%"] == pytest.approx(statistics.median(lengths))
    if len(lengths) > 1:
        assert found["std"] == pytest.approx(statistics.stdev(lengths))
        quarters = statistics.quantiles(lengths, n=4, method="inclusive")
        assert [found["25%"], found["50%"], found["75%"]] == pytest.approx(quarters)


@given(LENGTHS)
def test_quantiles_occur_and_lie_in_their_ranges(lengths):
    found, ranges = quantiles(np.array(lengths)), quantile_ranges(np.array(lengths), out_of=10 * len(lengths))
    for name, value in found.items():
        assert value in lengths and ranges[name][0] <= value <= ranges[name][1]
    whole = quantile_ranges(np.array(lengths), out_of=len(lengths))
    assert {name: (value, value) for name, value in found.items()} == whole, "nothing is uncertain about all of them"
    assert mean_error(np.array(lengths), out_of=len(lengths)) == 0


def test_errors_are_those_of_repeated_draws():
    rng = np.random.default_rng(1)
    everything = np.exp(rng.normal(5, 1, 20_000)).astype(np.int64) + 1
    draws = [rng.choice(everything, 400, replace=False) for _ in range(400)]
    spread = np.std([draw.mean() for draw in draws])
    assert np.mean([mean_error(draw, out_of=20_000) for draw in draws]) == pytest.approx(spread, rel=0.1)
    truth = quantiles(everything)["p90"]
    ranges = [quantile_ranges(draw, out_of=20_000)["p90"] for draw in draws]
    assert 0.58 < np.mean([low <= truth <= high for low, high in ranges]) < 0.78, "one deviation to either side"


def test_one_value_says_nothing_about_others():
    assert mean_error(np.array([5]), out_of=100) == math.inf


@given(st.integers(0, 99), st.integers(0, 3))
def test_rows_are_taken_by_place_and_seed_alone(seed, file):
    first, second = RowSample(0.3, seed), RowSample(0.3, seed)
    lines = range(1, 200)
    taken = [first.takes(file, line) for line in lines]
    assert taken == [second.takes(file, line) for line in reversed(lines)][::-1]
    assert (first.seen, first.taken) == (199, sum(taken)) and 25 < sum(taken) < 100
    more = RowSample(0.6, seed)
    assert all(more.takes(file, line) for line, is_taken in zip(lines, taken, strict=True) if is_taken), "nested"


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.25", 0.25), ("100%", 1.0), ("0.5 %", 0.005), ("1", 1.0)])
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "0", "101%", "-1%", "x", "%", "nan", "1.5"])
def test_what_is_no_share(text):
    from seqpack.core.errors import ConfigError

    with pytest.raises(ConfigError, match="is not a part of the rows"):
        parse_share(text)
