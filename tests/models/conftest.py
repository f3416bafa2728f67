"""Tiny models with random weights, and rows for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqpack.core.types import IGNORE_INDEX, PackedSequence

VOCAB_SIZE = 199
TINY = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
}

EXTRAS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},  # shorter than most samples of the tests
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
"""What a family has beyond TINY."""

SaveModel = Callable[..., Path]
MakeRow = Callable[..., PackedSequence]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Models this small gain nothing from a second thread, and wait for it when the machine is busy.
    torch.set_num_threads(1)


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    """``save_model("qwen2", tie_word_embeddings=True)`` -> a directory with random float64 weights."""

    def save(family: str, **settings: Any) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**TINY, **EXTRAS.get(family, {}), **settings})
        config._experts_implementation = "eager"  # the fast one does not compute in float64
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():  # biases start at 0 and norms at 1, which would hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
        directory = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(directory)
        return directory

    return save


@pytest.fixture
def make_row() -> MakeRow:
    """``make_row([3, 1], num_padding=2)``: random ids, a third of each sample without labels."""

    def make(lengths: Sequence[int], num_padding: int = 0, seed: int = 0) -> PackedSequence:
        rng = np.random.default_rng(seed)
        total = sum(lengths)
        input_ids = np.concatenate([rng.integers(2, VOCAB_SIZE, total), np.zeros(num_padding)]).astype(np.int32)
        labels = input_ids.copy()
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            labels[end - length : end - length + length // 3] = IGNORE_INDEX
        labels[total:] = IGNORE_INDEX
        ends = np.cumsum([*lengths, *([num_padding] if num_padding else [])])
        return PackedSequence(input_ids, labels, np.concatenate([[0], ends]).astype(np.int32), num_padding)

    return make
