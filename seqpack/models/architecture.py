"""Flags that describe a model, against the ``config.json`` that decides: a contradiction is an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from seqpack.core.errors import ConfigError

Agrees = Callable[[Any, Any], bool]
"""Whether a flag's value and a configuration say the same."""

_BIASED_QKV = ("qwen2", "qwen2_moe")
_NORMED_HEADS = ("qwen3", "qwen3_moe")


def check_architecture(given: Mapping[str, Any], config: Any, model: str) -> None:
    """SP230 if flags such as ``--hidden-size`` say something else than the configuration of ``--model``."""
    wrong = []
    for flag, value in given.items():
        key, agrees = _RULES[flag]
        if not agrees(value, config):
            shown = flag if value is True else f"{flag} {value}"
            wrong.append(f"{shown} ({key} is {getattr(config, key, 'missing')})")
    if wrong:
        raise ConfigError(
            "SP230",
            f"--model {model} has another architecture: {', '.join(wrong)}",
            help="config.json of the model decides: leave these flags out, or name the model they describe",
        )


def _same(key: str) -> tuple[str, Agrees]:
    """The flag repeats a key, or asks for something that the key's value alone says."""
    return key, lambda value, config: _equal(value, getattr(config, key, None))


def _equal(value: Any, found: Any) -> bool:
    return math.isclose(value, found) if isinstance(value, float) and found is not None else bool(value == found)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _expert_size(config: Any) -> Any:
    return getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None)


def _has_key_groups(config: Any) -> bool:
    return getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)


def _rope_theta(config: Any) -> Any:
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("rope_theta", next((part.get("rope_theta") for part in rope.values() if isinstance(part, dict)), 0))


def _has_qkv_bias(config: Any) -> bool:
    return config.model_type in _BIASED_QKV or bool(getattr(config, "attention_bias", False))


_RULES: Mapping[str, tuple[str, Agrees]] = {
    "--num-layers": _same("num_hidden_layers"),
    "--hidden-size": _same("hidden_size"),
    "--ffn-hidden-size": _same("intermediate_size"),
    "--num-attention-heads": _same("num_attention_heads"),
    "--num-query-groups": _same("num_key_value_heads"),
    "--group-query-attention": ("num_key_value_heads", lambda value, config: _has_key_groups(config)),
    "--kv-channels": ("head_dim", lambda value, config: value == _head_size(config)),
    "--normalization": ("rms_norm_eps", lambda value, config: (value == "RMSNorm") == hasattr(config, "rms_norm_eps")),
    "--norm-epsilon": _same("rms_norm_eps"),
    "--rotary-base": ("rope_parameters", lambda value, config: _equal(value, _rope_theta(config))),
    "--position-embedding-type": (
        "rope_parameters",
        lambda value, config: (value == "rope") == bool(getattr(config, "rope_parameters", None)),
    ),
    "--swiglu": ("hidden_act", lambda value, config: getattr(config, "hidden_act", None) == "silu"),
    "--add-qkv-bias": ("model_type", lambda value, config: _has_qkv_bias(config)),
    "--qk-layernorm": ("model_type", lambda value, config: config.model_type in _NORMED_HEADS),
    "--untie-embeddings-and-output-weights": (
        "tie_word_embeddings",
        lambda value, config: not config.tie_word_embeddings,
    ),
    "--vocab-size": _same("vocab_size"),
    "--padded-vocab-size": ("vocab_size", lambda value, config: config.vocab_size <= value),
    "--num-experts": _same("num_experts"),
    "--moe-router-topk": _same("num_experts_per_tok"),
    "--moe-ffn-hidden-size": ("moe_intermediate_size", lambda value, config: value == _expert_size(config)),
    "--moe-aux-loss-coeff": _same("router_aux_loss_coef"),
}
"""Flag -> the key an error shows, and whether a value agrees with a configuration."""
