"""Tiny models with shapes that tell mistakes apart: head_dim is not hidden / heads, no two sizes are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.convert.mapping import TensorSpec
from seqpack.options.convert import ConvertOptions

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def make_model(
    folder: Path, family: str, *, dtype: torch.dtype = torch.float32, shard: str = "1GB", **sizes: Any
) -> Path:
    """A model of random weights (biases too) as transformers saves it, with a stand-in for a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[family]
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES | sizes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "optimizer.pt").write_text("not a part of the model")
    return folder


def edit_config(folder: Path, **values: Any) -> None:
    """Set keys of config.json; None removes a key."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


class InMemory:
    """Tensors as a TensorSource, without files."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self._tensors = tensors
        self.specs = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def options(source: Path, to: Any, output: Path, **values: Any) -> ConvertOptions:
    return ConvertOptions(source=source, to=to, output=output, **values)


def tree(folder: Path) -> set[str]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return make_model(tmp_path / "qwen", "qwen2", tie_word_embeddings=True)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_model(tmp_path / "llama", "llama", tie_word_embeddings=False)
