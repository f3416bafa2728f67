"""A configuration of the same kind and the smallest size: what a self-check can build in a moment."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

VOCAB_SIZE = 128
MIN_LAYERS = 2
HEAD_SIZE = 16
REACH = 6
"""Windows and chunks of attention: shorter than the samples of the self-check, so that they matter there."""
WIDTHS = {
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}


def tiny_copies(
    config: Any, *, vocab_size: int = VOCAB_SIZE, keep_layers: bool = False, keep_heads: bool = False
) -> Iterator[Any]:
    """Copies to try, the smallest first; the second keeps the widths, which some families tie to each other.

    Several processes that share layers or heads need them all: ``keep_layers`` and ``keep_heads`` leave their number.
    """
    yield _narrow(_shallow(config, vocab_size, keep_layers), keep_heads)
    yield _shallow(config, vocab_size, keep_layers)


def _shallow(config: Any, vocab_size: int, keep_layers: bool) -> Any:
    """Two layers or one of each kind, a small vocabulary, short windows."""
    tiny = copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    kept = list(range(num_layers)) if keep_layers else _kept_layers(kinds, num_layers)
    for name, value in vars(config).items():
        if isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(tiny, name, [value[layer] for layer in kept])
        if isinstance(value, int) and value and ("window" in name or "chunk" in name) and not isinstance(value, bool):
            setattr(tiny, name, min(value, REACH))
    tiny.num_hidden_layers = len(kept)
    tiny.vocab_size = min(config.vocab_size, vocab_size)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(tiny, name, None)
    return tiny


def _narrow(config: Any, keep_heads: bool) -> Any:
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # no attention at all: what can be narrowed is the family's own affair
        return config
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    small_kv = kv_heads if keep_heads else min(kv_heads, 2)
    small_heads = heads if keep_heads else small_kv * min(heads // kv_heads, 2)
    head_size = min(getattr(config, "head_dim", None) or config.hidden_size // heads, HEAD_SIZE)
    config.num_attention_heads, config.hidden_size = small_heads, small_heads * head_size
    if getattr(config, "num_key_value_heads", None) is not None:
        config.num_key_value_heads = small_kv
    if getattr(config, "head_dim", None) is not None:
        config.head_dim = head_size
    for name, width in WIDTHS.items():
        value = getattr(config, name, None)
        if isinstance(value, int):
            setattr(config, name, min(value, width))
    return config


def _kept_layers(kinds: list[str] | None, num_layers: int) -> list[int]:
    """The first layer of each kind, and enough others to be ``MIN_LAYERS``."""
    first = sorted({kind: layer for layer, kind in reversed(list(enumerate(kinds or ["any"])))}.values())
    others = [layer for layer in range(num_layers) if layer not in first]
    return sorted(first + others[: max(0, MIN_LAYERS - len(first))])
