"""Packing a tokenized set again gives what packing the raw data would have given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from seqpack.core.errors import ConfigError, DataError, DataLossError
from seqpack.io.indexed import bin_path, idx_path
from seqpack.io.packed import COLUMNS, DataSetPaths
from seqpack.pipeline import materialize

from .conftest import samples

SOURCES = {
    "plain": {"seq_length": 256},
    "packed": {"seq_length": 256, "neat_pack": True, "strategy": "best-fit", "seed": 9},
    "causal": {"seq_length": 300, "pack": True, "strategy": "greedy"},
}


def contents(paths: DataSetPaths) -> dict[str, bytes]:
    """Token files and piece index of a set."""
    files = [kind(paths.column(name)) for kind in (bin_path, idx_path) for name in COLUMNS]
    return {path.name.removeprefix(paths.prefix.name): path.read_bytes() for path in (*files, paths.index)}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "options",
    [{"neat_pack": True}, {"strategy": "greedy"}, {"neat_pack": True, "seed": 5}],
    ids=["best-fit", "greedy", "seed"],
)
def test_it_is_as_if_packed_from_the_raw_data(runs, alpaca, source, options):
    runs.preprocess(alpaca, "source", **SOURCES[source])
    direct = runs.preprocess(alpaca, "direct", seq_length=400, pack=True, **options)
    again = runs.repack("source", "again", seq_length=400, **options)
    assert contents(direct.paths) == contents(again.paths)
    for fact in ("packed", "seq_length", "strategy", "mask", "seed", "num_rows", "num_samples", "ledger", "tokenizer"):
        assert getattr(again.manifest, fact) == getattr(direct.manifest, fact), fact
    assert runs.open("again").manifest == again.manifest


def test_the_source_stays_as_it_is(runs, alpaca):
    runs.preprocess(alpaca, "source", **SOURCES["plain"])
    before = runs.files()
    runs.repack("source", "again", seq_length=400)
    after = runs.files()
    assert {name: after[name] for name in before} == before


def test_batches_do_not_show_in_the_result(runs, alpaca, monkeypatch):
    runs.preprocess(alpaca, "source", **SOURCES["packed"])
    one = runs.repack("source", "one", seq_length=300, neat_pack=True)
    monkeypatch.setattr(materialize, "TOKENS_PER_BATCH", 700)
    two = runs.repack("source", "two", seq_length=300, neat_pack=True)
    assert contents(one.paths) == contents(two.paths)


def test_a_set_may_replace_itself(runs, alpaca):
    runs.preprocess(alpaca, "source", **SOURCES["packed"])
    before = samples(runs.open("source"))
    result = runs.repack("source", "source", seq_length=300, overwrite=True)
    assert (runs.open("source").row_lengths == 300).all() and samples(runs.open("source")) == before
    assert result.manifest.seq_length == 300


def test_an_output_that_exists_is_kept(runs, alpaca):
    runs.preprocess(alpaca, "source", **SOURCES["plain"])
    with pytest.raises(ConfigError, match="exists") as error:
        runs.repack("source", "source", seq_length=300)
    assert error.value.code == "SP004"


def test_too_long_is_an_error_that_names_the_longest(runs, alpaca):
    runs.preprocess(alpaca, "source", seq_length=256)
    lengths = runs.open("source").row_lengths
    before = runs.files()
    with pytest.raises(DataError, match=rf"{(lengths > 100).sum()} samples do not fit .*alpaca.jsonl:40, has") as error:
        runs.repack("source", "again", seq_length=100)
    assert error.value.code == "SP108"
    assert runs.files() == before


def test_dropping_is_counted_in_the_ledger_of_the_source(runs, alpaca):
    source = runs.preprocess(alpaca, "source", seq_length=150)
    lengths = runs.open("source").row_lengths
    result = runs.repack("source", "again", seq_length=100, on_overlong="drop", max_drop=1.0)
    ledger = result.ledger
    ledger.check()
    dropped = ledger.dropped["longer than --seq-length"]
    assert (dropped.samples, dropped.tokens) == ((lengths > 100).sum(), lengths[lengths > 100].sum())
    assert ledger.read == source.ledger.read and ledger.truncated == source.ledger.truncated
    assert ledger.kept.tokens + ledger.padding == result.manifest.num_rows * 100
    assert ledger.trained == runs.open("again").num_targets.sum()
    assert runs.open("source").manifest.ledger == source.ledger
    lines = [json.loads(line) for line in result.paths.rejects.read_text().splitlines()]
    assert [line["outcome"] for line in lines].count("truncated") == source.ledger.truncated.samples > 0
    assert [line["key"] for line in lines if line["outcome"] == "dropped"] == [
        f"{alpaca}:{number + 1}" for number in np.flatnonzero(lengths > 100)
    ]


def test_too_many_lost_samples_stop_it(runs, alpaca):
    runs.preprocess(alpaca, "source", seq_length=150)
    before = runs.files()
    with pytest.raises(DataLossError, match="of 40 samples would be left out") as error:
        runs.repack("source", "again", seq_length=100, on_overlong="drop")
    assert (error.value.code, error.value.exit_code) == ("SP102", 4)
    assert runs.files() == before


def test_a_length_that_no_sample_fits_is_an_error(runs, alpaca):
    runs.preprocess(alpaca, "source", seq_length=150)
    before = runs.files()
    with pytest.raises(DataError, match="none of 40 samples fit --seq-length 8") as error:
        runs.repack("source", "again", seq_length=8, on_overlong="drop", max_drop=1.0)
    assert error.value.code == "SP109"
    assert runs.files() == before


def test_a_source_that_is_not_there(runs):
    with pytest.raises(DataError, match="missing") as error:
        runs.repack("nothing", "again", seq_length=8)
    assert error.value.code == "SP106"
    assert runs.files() == {}
