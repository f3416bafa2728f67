"""Activations that are computed again in the backward pass instead of kept."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from seqpack.core.errors import ConfigError

KEPT = frozenset(
    {
        "seqpack::cpu_varlen",
        "torch_attn::_varlen_attn",
        "npu::npu_fusion_attention",
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
    }
)
"""Operators whose results selective recomputation keeps: they cost most of the time and little of the memory."""


def recompute(model: Any, granularity: Literal["none", "selective", "full"]) -> None:
    """Have the layers of a model of transformers computed again; SP202 if the family cannot."""
    if granularity == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if granularity == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    # Renamed in transformers 5.24; the older name warns there.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable(settings)
    except ValueError as error:
        raise ConfigError(
            "SP202", f"--recompute-granularity {granularity}: {error}", help="leave it out for this model"
        ) from error


def _policy(context: Any, operator: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    name = operator._schema.name if isinstance(operator, torch._ops.OpOverload) else ""
    return CheckpointPolicy.MUST_SAVE if name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
