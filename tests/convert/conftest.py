"""Tiny models with shapes that tell mistakes apart: head_dim is not hidden / heads, no two sizes are equal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.convert.request import Request
from seqpack.options.convert import ConvertOptions, MegatronOptions

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

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
"""What transformers calls each family, and the sizes only it has."""


def make_model(
    folder: Path, family: str, *, dtype: torch.dtype = torch.float32, shard: str = "1GB", **sizes: Any
) -> Path:
    """A model of random weights (biases too) as transformers saves it, with a stand-in for a tokenizer."""
    import transformers

    name, extras = FAMILIES[family]
    model_class, config_class = (getattr(transformers, name + suffix) for suffix in ("ForCausalLM", "Config"))
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES | extras | sizes)).to(dtype)
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


def options(source: Path, to: Any, output: Path, **values: Any) -> Request:
    """What a command line asks for; flags about Megatron's side are told from the others by their names."""
    megatron = {field.name for field in dataclasses.fields(MegatronOptions)} & values.keys()
    return Request(
        ConvertOptions(
            source=source, to=to, output=output, **{name: values[name] for name in values if name not in megatron}
        ),
        MegatronOptions(**{name: values[name] for name in megatron}),
    )


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in shape, dtype and every bit, so that a NaN equals itself and 0.0 is not -0.0."""
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return (one.shape, one.dtype) == (other.shape, other.dtype) and torch.equal(*flat)


def tree(folder: Path) -> set[str]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return make_model(tmp_path / "qwen", "qwen2", tie_word_embeddings=True)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_model(tmp_path / "llama", "llama", tie_word_embeddings=False)
