from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoConfig

from seqpack.core.types import MaskMode
from seqpack.models.load import resolve_model
from seqpack.options.train import TrainDataOptions
from seqpack.runtime.batch import collate
from seqpack.train.data import open_data
from seqpack.train.flops import ModelFlops, peak_flops

from .conftest import WriteDataset
from .test_loop import make_rows

SHAPE = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2, "num_hidden_layers": 1}


def test_by_hand() -> None:
    """One layer, width 4, two heads of 2, one key head, MLP of 6: samples of 3 and 1 tokens, 2 of them trained."""
    flops = ModelFlops.of(AutoConfig.for_model("llama", **SHAPE, num_key_value_heads=1))
    matrices = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * (4 * 6)
    assert (flops.matrices, flops.head, flops.attention_width, flops.windows) == (matrices, 40, 4, (None,))
    # 3 tokens meet 1 + 2 + 3 keys, 1 token meets 1: 7 pairs. Forward: scores and values, 2 operations a channel each.
    forward = 2 * matrices * 4 + 2 * 40 * 2 + (2 + 2) * 4 * 7
    assert flops.of_samples(np.array([3, 1]), 2) == 3 * forward


def test_padding_counts_nothing_and_packing_changes_nothing() -> None:
    flops = ModelFlops.of(resolve_model("tiny:qwen2", vocab_size=61).config)
    rows = make_rows([[9, 4, 1], [14], [2, 5]])
    packed = flops.of_batch(collate(rows, MaskMode.BLOCK_CAUSAL))
    assert flops.of_batch(collate(rows, MaskMode.BLOCK_CAUSAL, pad_to=40)) == packed
    assert sum(flops.of_batch(collate([row], MaskMode.BLOCK_CAUSAL)) for row in rows) == packed
    assert flops.of_batch(collate(rows, MaskMode.CAUSAL)) > packed


def test_a_window_ends_what_meets() -> None:
    config = AutoConfig.for_model("mistral", **SHAPE, num_key_value_heads=1, sliding_window=2)
    wide = AutoConfig.for_model("mistral", **SHAPE, num_key_value_heads=1, sliding_window=None)
    ours, full = (ModelFlops.of(c).of_samples(np.array([4]), 0) for c in (config, wide))
    assert full - ours == 12 * 4 * (10 - 7)  # 1 + 2 + 2 + 2 instead of 1 + 2 + 3 + 4


def test_a_token_passes_the_experts_it_is_sent_to() -> None:
    settings = {**SHAPE, "num_key_value_heads": 1, "num_experts_per_tok": 2}
    few, many = (ModelFlops.of(AutoConfig.for_model("mixtral", **settings, num_local_experts=n)) for n in (2, 8))
    assert many.matrices - few.matrices == 4 * (8 - 2)  # the router alone


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    config = AutoConfig.for_model("llama", **SHAPE, num_key_value_heads=1)
    full, lora = ModelFlops.of(config), ModelFlops.of(config, adapters=10)
    weights = full.matrices * 4 + full.head * 2
    assert full.of_samples(np.array([3, 1]), 2) - lora.of_samples(np.array([3, 1]), 2) == 2 * weights - 6 * 10 * 4


def test_rows_add_up_to_what_a_batch_counts(write_dataset: WriteDataset) -> None:
    flops = ModelFlops.of(resolve_model("tiny:qwen2", vocab_size=61).config)
    for mask in (*MaskMode, None):
        data = open_data(TrainDataOptions(data_path=[str(write_dataset([[5, 3], [9], [2, 2, 2]], mask=mask))]))
        mode = mask or MaskMode.BLOCK_CAUSAL
        wanted = [flops.of_batch(collate([data[row]], mode)) for row in range(len(data))]
        assert data.costs(flops).tolist() == pytest.approx(wanted)


def test_rows_of_a_large_model() -> None:
    """Its weights do not fit the 32 bits of the lengths."""
    flops = ModelFlops(matrices=6_500_000_000, windows=(None,), attention_width=4096, head=4_000_000_000)
    lengths, targets = np.array([3, 1], np.int32), np.array([2, 0], np.int32)
    (found,) = flops.of_rows(np.array([0, 0]), lengths, targets, 1)
    assert found == pytest.approx(flops.of_samples(np.array([3, 1]), 2), rel=1e-12)


def test_peaks() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == pytest.approx(989e12)
    assert peak_flops("cpu") is None
