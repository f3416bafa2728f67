"""What stats forecasts is what preprocess makes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.pipeline.stats import PADDED_BATCH, histogram, layouts, suggest_length

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=60).map(lambda lengths: np.array(lengths, np.int64))


@pytest.mark.parametrize("on_overlong", ["truncate", "drop"])
@pytest.mark.parametrize("seq_length", [100, 256])
@pytest.mark.parametrize("strategy", ["bfd", "ffd", "balanced", "wrapped"])
def test_the_forecast_comes_true(runs, alpaca, on_overlong, seq_length, strategy):
    options = {"seq_length": seq_length, "on_overlong": on_overlong}
    found = runs.stats(alpaca, **options)
    assert runs.files() == {}, "stats writes nothing"
    made = runs.preprocess(alpaca, neat_pack=True, strategy=strategy, max_drop=1.0, **options)
    (layout,) = [layout for layout in found.layouts if layout.name == f"pack, {strategy}"]
    assert layout.rows == made.manifest.num_rows
    assert layout.elements == made.manifest.num_rows * seq_length
    assert layout.fill == pytest.approx(made.ledger.kept.tokens / layout.elements)
    made.ledger.padding = 0
    assert found.ledger == made.ledger
    assert found.seq_length == seq_length and found.seq_length_was_given


def test_lengths_are_of_whole_samples(runs, alpaca):
    runs.preprocess(alpaca)
    whole = runs.open("out").row_lengths
    for options in ({}, {"seq_length": 64}, {"seq_length": 64, "on_overlong": "drop"}):
        found = runs.stats(alpaca, **options)
        assert (found.minimum, found.maximum) == (whole.min(), whole.max())
        assert found.num_tokens == whole.sum() and found.mean == pytest.approx(whole.mean())
        assert found.quantiles["p50"] == np.sort(whole)[19]
        assert list(found.quantiles) == ["p50", "p90", "p95", "p99"]
        assert sum(bucket.samples for bucket in found.histogram) == 40


def test_the_longest_losses_are_named(runs, alpaca):
    runs.preprocess(alpaca)
    whole = runs.open("out").row_lengths
    cut = runs.stats(alpaca, seq_length=64)
    assert cut.longest == tuple((f"{alpaca}:{line}", int(whole[line - 1]) - 64) for line in (40, 39, 38))
    dropped = runs.stats(alpaca, seq_length=64, on_overlong="drop")
    assert dropped.longest == tuple((f"{alpaca}:{line}", int(whole[line - 1])) for line in (40, 39, 38))


def test_the_suggested_length_is_used(runs, alpaca):
    found = runs.stats(alpaca)
    given_length = runs.stats(alpaca, seq_length=256)
    assert (found.seq_length, found.seq_length_was_given) == (256, False)
    assert (found.layouts, found.ledger) == (given_length.layouts, given_length.ledger)


def test_a_length_that_would_drop_samples_is_not_suggested(runs, write_jsonl):
    # 2049 tokens: cut at 2048 they lose less than one in a thousand, dropped they lose all.
    row = {"instruction": "Hi", "output": " water" * 2000}
    more = 2049 - runs.stats(write_jsonl([row])).maximum
    file = write_jsonl([row | {"output": " water" * (2000 + more)}])
    assert runs.stats(file).maximum == 2049
    assert runs.stats(file).seq_length == 2048
    assert runs.stats(file, on_overlong="drop").seq_length == 4096
    assert runs.stats(file, on_overlong="error").ledger.kept.samples == 1


def test_rejected_rows_do_not_stop_it(runs, write_jsonl):
    file = write_jsonl([{"instruction": "Hi", "output": ""}] * 9 + [{"instruction": "Hi", "output": "Hi!"}])
    found = runs.stats(file)
    assert found.ledger.rejected == {"empty 'output'": 9} and found.ledger.kept.samples == 1


@pytest.mark.parametrize("rows", [[], [{"instruction": "Hi", "output": ""}]])
def test_nothing_to_measure_is_an_error(runs, write_jsonl, rows):
    with pytest.raises(DataError) as error:
        runs.stats(write_jsonl(rows))
    assert error.value.code == "SP109"


def test_too_long_can_be_an_error(runs, alpaca):
    with pytest.raises(DataError, match="do not fit") as error:
        runs.stats(alpaca, seq_length=64, on_overlong="error")
    assert error.value.code == "SP108"


def test_it_is_plain_data(runs, alpaca):
    found = runs.stats(alpaca)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["num_tokens"] == found.num_tokens


@given(LENGTHS)
def test_the_suggestion_is_the_smallest_power_of_two_that_will_do(lengths):
    length = suggest_length(lengths)
    assert length & (length - 1) == 0
    assert np.minimum(lengths, length).sum() >= 0.999 * lengths.sum()
    assert length == 2 or np.minimum(lengths, length // 2).sum() < 0.999 * lengths.sum()
    assert suggest_length(lengths, kept=1.0) >= lengths.max()


@given(LENGTHS)
def test_buckets_hold_every_sample_once(lengths):
    buckets = histogram(lengths)
    assert buckets[0].samples > 0 and buckets[-1].samples > 0
    assert sum(bucket.samples for bucket in buckets) == len(lengths)
    for bucket, after in itertools.pairwise(buckets):
        assert after.low == bucket.high + 1
    for bucket in buckets:
        assert bucket.samples == ((bucket.low <= lengths) & (lengths <= bucket.high)).sum()
        assert bucket.share == pytest.approx((lengths <= bucket.high).mean())


@given(LENGTHS)
def test_layouts_by_brute_force(lengths):
    found = {layout.name: layout for layout in layouts(lengths, seq_length=5000, seed=1)}
    batches = [lengths[first : first + PADDED_BATCH] for first in range(0, len(lengths), PADDED_BATCH)]
    assert found["pad to 5,000"].elements == 5000 * len(lengths)
    assert found["pad to longest of 8"].elements == sum(int(batch.max()) * len(batch) for batch in batches)
    assert {"pack, bfd", "pack, ffd", "pack, balanced", "pack, wrapped"} < set(found)
    best = min(layout.elements for layout in found.values())
    for layout in found.values():
        assert layout.fill == pytest.approx(lengths.sum() / layout.elements)
        assert layout.versus_best == pytest.approx(layout.elements / best)
