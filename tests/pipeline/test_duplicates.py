"""SP140 and --dedup: the same tokens and labels several times."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.types import IGNORE_INDEX, TokenizedSample, join_samples
from seqpack.pipeline.sample_parts import digests_of

from .conftest import Runs, samples

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
OTHER = {"instruction": "Say bye.", "input": "", "output": "Bye."}


def test_duplicates_are_counted_and_kept(runs, write_jsonl):
    result = runs.preprocess(write_jsonl([ROW, OTHER, ROW, ROW | {"id": 4}]))
    assert result.duplicates == 2 and result.ledger.kept.samples == 4


@pytest.mark.parametrize("mode", [{}, {"neat_pack": True, "seq_length": 64}], ids=["plain", "neat"])
def test_only_the_first_is_kept(runs, write_jsonl, mode):
    file = write_jsonl([ROW, OTHER, ROW, OTHER, ROW | {"output": "Hi."}])
    result = runs.preprocess(file, dedup="exact", **mode)
    assert result.duplicates == 0 and result.ledger.kept.samples == 3
    assert result.ledger.dropped["duplicate of another sample"].samples == 2
    result.ledger.check()
    assert sorted(runs.open("out").pieces.line.tolist()) == [1, 2, 5]
    assert runs.open("out").pieces.sample.max() == 2
    losses = [json.loads(line) for line in result.paths.rejects.read_text().splitlines()]
    assert [(loss["key"], loss["reason"]) for loss in losses] == [
        (f"{file}:3", f"duplicate of {file}:1"),
        (f"{file}:4", f"duplicate of {file}:2"),
    ]


def test_the_same_tokens_trained_on_otherwise_are_no_duplicate(runs, write_jsonl):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": train}, *TAIL]}
        for train in (True, False)
    ]
    assert runs.preprocess(write_jsonl(rows)).duplicates == 0


TAIL = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]


@given(texts=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30))
def test_what_is_left_is_the_first_of_each(texts, tmp_path_factory, tokenizer_dir):
    folder = tmp_path_factory.mktemp("dedup")
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps({"instruction": text, "output": text}) + "\n" for text in texts))
    runs = Runs(folder / "out", tokenizer_dir)
    result = runs.preprocess(file, dedup="exact", workers=1)
    first = [number for number, text in enumerate(texts, 1) if text not in texts[: number - 1]]
    assert runs.open("out").pieces.line.tolist() == first
    assert len(samples(runs.open("out"))) == len(first)
    assert result.ledger.read.samples == len(texts)


def test_text_is_compared_too(runs, write_jsonl):
    rows = [{"a": "One", "b": "Two"}, {"a": "One", "b": "Three"}, {"a": "One", "b": "Two"}]
    file = write_jsonl(rows)
    assert runs.preprocess(file, "x", handler="text", json_keys=["a", "b"]).duplicates == 1
    result = runs.preprocess(file, "y", handler="text", json_keys=["a", "b"], dedup="exact")
    assert result.manifest.num_rows == 2 and [text.documents for text in result.manifest.texts.values()] == [2, 2]
    result.ledger.check()


SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=4)


@given(st.lists(SAMPLES, max_size=8))
def test_digests_differ_where_tokens_or_labels_do(samples):
    tokens = [[token for token, _ in sample] for sample in samples]
    labels = [[token if train else IGNORE_INDEX for token, train in sample] for sample in samples]
    batch = join_samples(
        [TokenizedSample(np.int32(ids), np.int32(marks)) for ids, marks in zip(tokens, labels, strict=True)]
    )
    digests = digests_of(batch).tolist()
    for first, digest in zip(samples, digests, strict=True):
        assert [digest == other for other in digests] == [first == second for second in samples]
