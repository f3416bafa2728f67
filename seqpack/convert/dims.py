"""What a Hugging Face ``config.json`` says about a decoder, as far as its weights and Megatron's arguments need it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from seqpack.core.errors import CheckpointError, ConfigError

MEGATRON_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}.items()


@dataclass(frozen=True, slots=True)
class ModelDims:
    """Sizes of a decoder. ``head_dim`` is a size of its own: ``hidden_size / num_heads`` need not give it."""

    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_heads: int
    num_groups: int
    head_dim: int
    tied: bool
    num_experts: int = 0
    expert_ffn_size: int = 0
    dense_layers: frozenset[int] = frozenset()
    """Layers without experts in a model that has experts."""

    def has_experts(self, layer: int) -> bool:
        return self.num_experts > 0 and layer not in self.dense_layers

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // self.num_groups

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_groups * self.head_dim


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding: base, ``rope_type`` (``default``, ``llama3``, ``yarn`` ...) and the scaling factor.

    ``is_known_to_megatron``: Megatron-LM's flags can say it. Of llama3 scaling they leave only the factor free.
    """

    theta: float
    kind: str
    factor: float
    is_known_to_megatron: bool


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model directory; CheckpointError if there is none or it is not a JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            "SP401",
            f"{path} is missing",
            help="name the directory of a Hugging Face model: config.json and safetensors",
        )
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError("SP401", f"{path} is not JSON: {error}", help="download or copy it again") from error
    if not isinstance(config, dict):
        raise CheckpointError("SP401", f"{path} does not hold a JSON object", help="download or copy it again")
    return config


def read_dims(config: dict[str, Any], *, experts: bool = False) -> ModelDims:
    """The sizes in a config; a null ``head_dim`` or ``num_key_value_heads`` means what transformers makes of it.

    ``experts``: it is a mixture-of-experts family, whose config names their number and size.

    CheckpointError if a size is absent or the sizes contradict each other, ConfigError if the MLP is not SwiGLU.
    """
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(
            "SP409", f"config.json has hidden_act {activation!r}", help="only SwiGLU models (silu) can be converted"
        )
    hidden_size, num_heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    num_groups = _size(config, "num_key_value_heads", num_heads)
    if num_heads % num_groups:
        raise _contradiction(f"{num_heads} attention heads cannot share {num_groups} key-value heads")
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise _contradiction(
            f"hidden_size {hidden_size} is no multiple of {num_heads} heads, and head_dim is not given"
        )
    num_layers = _size(config, "num_hidden_layers")
    return ModelDims(
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden_size,
        ffn_hidden_size=_size(config, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_groups=num_groups,
        head_dim=_size(config, "head_dim", hidden_size // num_heads),
        tied=bool(config.get("tie_word_embeddings", False)),
        **(_expert_sizes(config, num_layers) if experts else {}),
    )


def _expert_sizes(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """Transformers 5 writes ``num_local_experts`` for Qwen3-MoE as well, 4 wrote ``num_experts``."""
    step = _size(config, "decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not {int}.issuperset(map(type, dense)):
        raise _wrong("mlp_only_layers", dense, "a list of layers")
    return {
        "num_experts": _size(config, "num_local_experts" if "num_local_experts" in config else "num_experts"),
        "expert_ffn_size": _size(config, "moe_intermediate_size", _size(config, "intermediate_size")),
        "dense_layers": frozenset(layer for layer in range(num_layers) if layer in dense or (layer + 1) % step),
    }


def read_rope(config: dict[str, Any]) -> Rope:
    """Rotary settings from ``rope_parameters`` (transformers 5) or from ``rope_theta`` and ``rope_scaling`` (4)."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise _wrong("rope_parameters" if config.get("rope_parameters") else "rope_scaling", settings, "an object")
    kind = str(settings.get("rope_type", settings.get("type", "default")))
    return Rope(
        theta=read_number(settings if settings.get("rope_theta") is not None else config, "rope_theta", 10000.0),
        kind=kind,
        factor=read_number(settings, "factor", 1.0) or 1.0,
        is_known_to_megatron=kind in ("default", "linear")
        or (kind == "llama3" and settings.items() >= MEGATRON_LLAMA3),
    )


def read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number of a config, ``default`` where it is absent or null; CheckpointError SP401 for anything else."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _wrong(key, value, "a number")
    return float(value)


def _size(config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(key, value, "a size")
    return value


def _wrong(key: str, value: object, wanted: str) -> CheckpointError:
    return CheckpointError(
        "SP401", f"config.json has {key} {value!r} where {wanted} is needed", help="use the config.json of the model"
    )


def _contradiction(what: str) -> CheckpointError:
    return CheckpointError("SP404", f"config.json contradicts itself: {what}", help="use the config.json of the model")
