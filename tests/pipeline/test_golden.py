"""The same samples, byte for byte, as MindSpeed-LLM makes (see golden/mindspeed/README.md)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqpack.core.types import IGNORE_INDEX
from seqpack.io.indexed import IndexedDataset, bin_path, idx_path
from seqpack.io.packed import COLUMNS
from tests.conftest import GOLDEN

from .conftest import samples

MORE = Path(__file__).parents[2].parent / "shared" / "golden" / "mindspeed"
"""The other modes, which are too large for this repository."""
needs_more = pytest.mark.skipif(not MORE.is_dir(), reason=f"{MORE} is not there")


def theirs(folder: Path, column: str) -> IndexedDataset:
    return IndexedDataset(folder / f"data_packed_{column}_document")


def their_samples(folder: Path) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Samples of a neat-packed set, cut out of its rows by its mask."""
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for ids, labels, mask in zip(*(theirs(folder, column) for column in COLUMNS), strict=True):
        for segment in range(1, mask.max() + 1):
            found[tuple(ids[mask == segment].tolist()), tuple(labels[mask == segment].tolist())] += 1
    return found


def test_plain_files_are_identical(runs):
    paths = runs.preprocess(GOLDEN / "inputs" / "alpaca_en_200.jsonl").paths
    for column in COLUMNS:
        for kind in (bin_path, idx_path):
            expected = kind(GOLDEN / "plain_qwen" / f"data_packed_{column}_document")
            assert kind(paths.column(column)).read_bytes() == expected.read_bytes(), expected.name


@pytest.mark.parametrize(
    ("folder", "rows", "tokenizer", "prompt_type", "seq_length", "num_cut"),
    [
        (GOLDEN / "neat_pack_qwen_seq512", "alpaca_en_200", "qwen", "qwen", 512, 25),
        pytest.param(MORE / "neat_pack_qwen_seq256", "alpaca_en_60", "qwen", "qwen", 256, None, marks=needs_more),
        pytest.param(MORE / "neat_pack_qwen_lf_seq512", "alpaca_en_60", "qwen", "qwen_lf", 512, None, marks=needs_more),
        pytest.param(
            MORE / "neat_pack_alpaca_seq512", "alpaca_en_200", "llama2", "alpaca", 512, None, marks=needs_more
        ),
    ],
    ids=["qwen 512", "qwen 256", "qwen_lf 512", "alpaca 512"],
)
def test_neat_packed_samples_are_identical_unless_cut(runs, folder, rows, tokenizer, prompt_type, seq_length, num_cut):
    inputs = folder.parent / "inputs" / f"{rows}.jsonl"
    directory = folder.parent / "tokenizers" / tokenizer
    runs.preprocess(inputs, tokenizer=directory, prompt_type=prompt_type, seq_length=seq_length, neat_pack=True)
    ours, golden = samples(runs.open("out")), their_samples(folder)
    whole = Counter({sample: count for sample, count in golden.items() if len(sample[0]) < seq_length - 1})
    assert whole.total() > 0 and whole <= ours, "samples that were not cut there are others here"
    rest = ours - whole
    assert rest.total() == golden.total() - whole.total()
    assert num_cut is None or rest.total() == num_cut
    assert all(len(ids) >= seq_length - 1 for ids, _ in rest)
    # What they lose and we keep: every sample ends as its reply does.
    end = Counter(ids[-1] for ids, _ in ours)
    assert len(end) == 1 and all(labels[-1] == ids[-1] for ids, labels in ours)


@needs_more
@pytest.mark.parametrize(
    ("folder", "rows", "tokenizer", "options"),
    [
        ("plain_llama2", "alpaca_en_60", "llama2", {"prompt_type": "llama2"}),
        ("think_qwen3_false", "alpaca_think_30", "qwen", {"prompt_type": "qwen3", "enable_thinking": "false"}),
        ("think_qwen3_none", "alpaca_think_30", "qwen", {"prompt_type": "qwen3"}),
    ],
)
def test_other_templates_give_identical_files(runs, folder, rows, tokenizer, options):
    directory = MORE / "tokenizers" / tokenizer
    paths = runs.preprocess(MORE / "inputs" / f"{rows}.jsonl", tokenizer=directory, **options).paths
    for column in COLUMNS:
        for kind in (bin_path, idx_path):
            expected = kind(MORE / folder / f"data_packed_{column}_document")
            assert kind(paths.column(column)).read_bytes() == expected.read_bytes(), expected.name


def test_neat_masks_number_the_samples_of_a_row(runs):
    inputs = GOLDEN / "inputs" / "alpaca_en_200.jsonl"
    paths = runs.preprocess(inputs, seq_length=512, neat_pack=True).paths
    dataset, masks = runs.open("out"), IndexedDataset(paths.column("attention_mask"))
    assert len(dataset) == len(masks) > 0
    for row, mask in zip(dataset, masks, strict=True):
        numbers = [*range(1, row.num_samples + 1), *([0] if row.num_padding else [])]
        assert mask.tolist() == np.repeat(numbers, np.diff(row.cu_seqlens)).tolist()
        assert (row.labels[mask == 0] == IGNORE_INDEX).all()
    assert any(row.num_padding for row in dataset)
    for mask in theirs(GOLDEN / "neat_pack_qwen_seq512", "attention_mask"):
        assert np.unique(np.diff(mask[mask > 0])).tolist() in ([0], [0, 1])


@needs_more
def test_conversations_with_history_and_system_are_identical(runs):
    map_keys = '{"prompt":"notice","query":"question","response":"answer","system":"system_test","history":"histories"}'
    runs.preprocess(MORE / "inputs" / "alpaca_history_40.jsonl", map_keys=map_keys)
    folder = MORE / "history_qwen"
    columns = (theirs(folder, "input_ids"), theirs(folder, "labels"))
    golden = Counter((tuple(ids.tolist()), tuple(labels.tolist())) for ids, labels in zip(*columns, strict=True))
    ours = samples(runs.open("out"))
    assert golden.total() == 32 and golden <= ours
    assert all(len(ids) >= 1024 for ids, _ in ours - golden), "only those that reach --seq-length are missing there"
