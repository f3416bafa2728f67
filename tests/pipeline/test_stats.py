"""What stats forecasts is what preprocess makes."""

from __future__ import annotations

import itertools
import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError
from seqpack.options.data import StrategyOptions
from seqpack.pipeline.describe import histogram
from seqpack.pipeline.layouts import PADDED_BATCH, layouts, suggest_length
from seqpack.pipeline.set_stats import set_stats

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=60).map(lambda lengths: np.array(lengths, np.int64))


@pytest.mark.parametrize("on_overlong", ["truncate", "drop", "split"])
@pytest.mark.parametrize("seq_length", [100, 256])
@pytest.mark.parametrize("strategy", ["bfd", "ffd", "balanced", "wrapped"])
def test_the_forecast_comes_true(runs, alpaca, on_overlong, seq_length, strategy):
    options = {"seq_length": seq_length, "on_overlong": on_overlong}
    found = runs.stats(alpaca, **options)
    assert runs.files() == {}, "stats writes nothing"
    if strategy == "wrapped":  # which cuts by itself
        del options["on_overlong"]
    made = runs.preprocess(alpaca, neat_pack=True, strategy=strategy, max_drop=1.0, **options)
    (layout,) = [layout for layout in found.layouts if layout.name == f"pack, {strategy}"]
    assert layout.rows == made.manifest.num_rows
    assert layout.elements == made.manifest.num_rows * seq_length
    assert layout.fill == pytest.approx(made.ledger.kept.tokens / layout.elements)
    assert layout.cut_samples == num_cut(made.ledger, runs.open("out"))
    assert_measured(layout, runs.open("out"))
    made.ledger.padding = 0
    assert found.ledger == made.ledger or strategy == "wrapped"
    assert found.seq_length == seq_length and found.seq_length_was_given


def num_cut(ledger, dataset) -> int:
    """Samples that were shortened, left out, or lie in several pieces."""
    in_pieces = (np.bincount(dataset.pieces.sample) > 1).sum()
    return ledger.truncated.samples + ledger.all_dropped.samples + in_pieces


def assert_measured(layout, dataset):
    """The quality of a layout, computed again from the packs on disk, one by one."""
    packs = [np.diff(row.cu_seqlens)[: row.num_samples].astype(np.int64) for row in dataset]
    costs = [float((pack**2).sum()) for pack in packs]
    bound = layout.quality.lower_bound
    assert -(-sum(map(sum, packs)) // dataset.manifest.seq_length) <= bound <= len(packs)
    assert layout.quality.over == pytest.approx(len(packs) / bound - 1)
    assert layout.quality.cost_cv == pytest.approx(statistics.pstdev(costs) / statistics.mean(costs))


def test_the_forecast_of_repacking_comes_true(runs, alpaca):
    runs.preprocess(alpaca, "first", seq_length=256, neat_pack=True)
    for options in ({"seq_length": 300}, {"seq_length": 100, "on_overlong": "drop"}, {}):
        found = set_stats(runs.folder / "first", seq_length=options.get("seq_length"), seed=1234)
        own, *others = found.layouts
        dataset = runs.open("first")
        assert own.rows == len(dataset)
        assert_measured(own, dataset)
        assert found.describe["count"] == 40 and found.ledger == dataset.manifest.ledger
        again = {"max_drop": 1.0, **options, "seq_length": found.seq_length}
        for layout in others:
            strategy = layout.name.removeprefix("pack, ")
            if strategy != layout.name and not layout.note:
                made = runs.repack("first", "again", strategy=strategy, overwrite=True, **again)
                again_set = runs.open("again")
                assert (layout.rows, layout.cut_samples) == (len(again_set), num_cut(made.ledger, again_set))
                assert_measured(layout, again_set)
        assert bool(found.longest) == (found.seq_length == 100)


def test_an_unpacked_set_and_raw_files_measure_the_same(runs, alpaca):
    runs.preprocess(alpaca, "plain")
    raw, made = runs.stats(alpaca, seq_length=1024), set_stats(runs.folder / "plain", seq_length=1024, seed=1234)
    same = ("describe", "quantiles", "histogram", "layouts", "steps", "attended_share", "candidates", "ledger")
    assert [name for name in same if getattr(raw, name) != getattr(made, name)] == []
    assert set_stats(runs.folder / "plain", seq_length=None, seed=1).seq_length == 256
    with pytest.raises(ConfigError, match="fits --seq-length 10"):
        set_stats(runs.folder / "plain", seq_length=10, seed=1)


def test_documents_are_measured(runs, write_jsonl):
    runs.preprocess(write_jsonl([{"text": " water" * n} for n in (5, 9, 4)]), "text", handler="text")
    found = set_stats(runs.folder / "text", seq_length=6, seed=1)
    first = found.layouts[0]
    assert (found.source, found.num_tokens) == ("pretraining text", 18)
    assert (first.name, first.rows) == ("concatenate and cut", 3)
    assert first.cut_samples == 1, "5 and 1, 6, 2 and 4 tokens: only the second document is cut"


def test_text_and_the_set_made_of_it_measure_the_same(runs, write_jsonl):
    file = write_jsonl([{"text": " water" * n} for n in (5, 9, 4, 70)] + [{"text": ""}])
    runs.preprocess(file, "text", append_eod=True, max_drop=1.0)
    raw = runs.stats(file, append_eod=True, seq_length=16)
    made = set_stats(runs.folder / "text", seq_length=16, seed=1234)
    same = ("describe", "quantiles", "histogram", "layouts", "steps", "candidates", "ledger", "source", "handler")
    assert [name for name in same if getattr(raw, name) != getattr(made, name)] == []
    assert raw.num_tokens == 5 + 9 + 4 + 70 + 4 == raw.ledger.kept.tokens
    assert runs.stats(file, append_eod=True).seq_length == 128
    for options, flag in (({"on_overlong": "drop"}, "--on-overlong"), ({"prompt_type": "llama3"}, "--prompt-type")):
        with pytest.raises(ConfigError, match=f"{flag} would do nothing"):
            runs.stats(file, **options)


def test_a_part_of_the_documents(runs, write_jsonl):
    file = write_jsonl([{"text": " water" * (n % 37 + 1)} for n in range(400)])
    found, whole = runs.stats(file, share=0.25), runs.stats(file)
    assert (found.sampled.seen, found.sampled.taken) == (400, found.ledger.read.samples)
    assert abs(found.sampled.num_tokens - whole.num_tokens) < 4 * found.sampled.tokens_error
    with pytest.raises(ConfigError, match="takes none of 400 rows"):
        runs.stats(file, share=1e-9)


def test_attention_inside_samples(runs, alpaca):
    found = runs.stats(alpaca, seq_length=256)
    runs.preprocess(alpaca, seq_length=256, neat_pack=True)
    dataset = runs.open("out")
    pairs = sum(int((n * (n + 1) // 2).sum()) for n in [dataset.pieces.length.astype(np.int64)])
    assert found.attended_share == pytest.approx(pairs / (len(dataset) * 256 * 257 // 2))
    assert (found.steps.unpacked, found.steps.packed) == (5, -(-len(dataset) // 8))
    assert found.steps.samples_per_packed_step == pytest.approx(8 * 40 / len(dataset))


def test_copies_are_counted_and_named(runs, write_jsonl):
    rows = [{"instruction": "Hi", "output": output} for output in ("a", "b", "a", "c", "b", "a")]
    copies = runs.stats(write_jsonl(rows)).copies
    assert copies.number == 3
    assert (copies.key.rpartition(":")[2], copies.of.rpartition(":")[2]) == ("3", "1")
    # what is cut to the same beginning is no copy
    long = [{"instruction": "Hi", "output": " water" * n} for n in (300, 400)]
    assert runs.stats(write_jsonl(long), seq_length=64).copies.number == 0
    assert runs.stats(write_jsonl(rows[:2])).copies.number == 0


def test_how_samples_end(runs, alpaca, tokenizer_dir):
    (ending,) = runs.stats(alpaca).endings
    assert (ending.text, ending.samples) == ("<|im_end|>", 40)
    assert len(runs.stats(alpaca, seq_length=100, on_overlong="drop").endings) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_part_of_the_rows_is_the_same_for_any_workers(runs, write_jsonl, monkeypatch, workers):
    monkeypatch.setattr("seqpack.io.shards.SHARD_BYTES", 2000)
    file = write_jsonl([{"instruction": f"Say {n}.", "output": " water" * (n % 37 + 1)} for n in range(400)])
    found = runs.stats(file, seq_length=128, share=0.25, workers=workers)
    sampled = found.sampled
    assert (sampled.seen, sampled.taken) == (400, found.ledger.read.samples) and 70 < sampled.taken < 130
    assert sampled.taken == runs.stats(file, seq_length=128, share=0.25, workers=1).sampled.taken
    assert found.describe == runs.stats(file, seq_length=128, share=0.25, workers=1).describe
    assert runs.stats(file, seq_length=128, share=0.25, seed=7).describe != found.describe
    whole = runs.stats(file, seq_length=128)
    assert whole.sampled is None
    assert abs(sampled.num_tokens - whole.num_tokens) < 4 * sampled.tokens_error
    for name, layout in {each.name: each for each in whole.layouts}.items():
        (about,) = [each for each in found.layouts if each.name == name]
        assert about.rows == pytest.approx(layout.rows, rel=0.2)


def test_a_part_without_rows_is_an_error(runs, alpaca):
    with pytest.raises(ConfigError, match="takes none of 40 rows"):
        runs.stats(alpaca, share=1e-9)


def test_other_lengths_are_those_that_packing_gives(runs, alpaca):
    found = runs.stats(alpaca)
    assert {each.seq_length for each in found.candidates} >= {found.seq_length}
    name = f"pack, {StrategyOptions().strategy}"
    for candidate in found.candidates:
        exact = runs.stats(alpaca, seq_length=candidate.seq_length)
        (layout,) = [each for each in exact.layouts if each.name == name]
        assert (candidate.rows, candidate.longer) == (layout.rows, exact.ledger.truncated.samples)
        assert candidate.fill == pytest.approx(layout.fill)
        assert candidate.kept == pytest.approx(exact.ledger.kept.tokens / exact.ledger.read.tokens)


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
    tried = [layout for layout in found.values() if not layout.note]
    best = min(layout.elements for layout in tried)
    for layout in tried:
        assert layout.fill == pytest.approx(lengths.sum() / layout.elements)
        assert layout.versus_best == pytest.approx(layout.elements / best)
