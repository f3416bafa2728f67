"""Which weight of a model does what: one table per tested family, for whatever needs to know the parts.

Names are those of ``transformers``' modules, with ``{layer}`` for the number of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache


class Role(StrEnum):
    """What a weight is for. Of a mixture of experts, ``GATE_UP`` and ``DOWN_EXPERTS`` hold all experts at once."""

    EMBEDDING = "embedding"
    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741 - the field's name for it
    Q_NORM = "q_norm"
    K_NORM = "k_norm"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    ROUTER = "router"
    GATE_UP_EXPERTS = "gate_up_experts"
    DOWN_EXPERTS = "down_experts"
    ATTENTION_NORM = "attention_norm"
    MLP_NORM = "mlp_norm"
    FINAL_NORM = "final_norm"
    HEAD = "head"


_LAYER = "model.layers.{layer}"
_COMMON = {
    Role.EMBEDDING: "model.embed_tokens",
    Role.Q: f"{_LAYER}.self_attn.q_proj",
    Role.K: f"{_LAYER}.self_attn.k_proj",
    Role.V: f"{_LAYER}.self_attn.v_proj",
    Role.O: f"{_LAYER}.self_attn.o_proj",
    Role.ATTENTION_NORM: f"{_LAYER}.input_layernorm",
    Role.MLP_NORM: f"{_LAYER}.post_attention_layernorm",
    Role.FINAL_NORM: "model.norm",
    Role.HEAD: "lm_head",
}
_HEAD_NORMS = {Role.Q_NORM: f"{_LAYER}.self_attn.q_norm", Role.K_NORM: f"{_LAYER}.self_attn.k_norm"}
_DENSE = {
    Role.GATE: f"{_LAYER}.mlp.gate_proj",
    Role.UP: f"{_LAYER}.mlp.up_proj",
    Role.DOWN: f"{_LAYER}.mlp.down_proj",
}
_EXPERTS = {
    Role.ROUTER: f"{_LAYER}.mlp.gate",
    Role.GATE_UP_EXPERTS: f"{_LAYER}.mlp.experts.gate_up_proj",
    Role.DOWN_EXPERTS: f"{_LAYER}.mlp.experts.down_proj",
}

ROLES: Mapping[str, Mapping[Role, str]] = {
    "qwen2": _COMMON | _DENSE,
    "llama": _COMMON | _DENSE,
    "mistral": _COMMON | _DENSE,
    "qwen3": _COMMON | _DENSE | _HEAD_NORMS,
    "qwen3_moe": _COMMON | _DENSE | _HEAD_NORMS | _EXPERTS,  # some of its layers may be dense
    "mixtral": _COMMON | _EXPERTS,
}
"""``model_type`` -> role -> module, or parameter where it belongs to no module of its own."""

FAMILIES = tuple(ROLES)
"""Values of ``model_type`` for which packed training is tested to equal training one sample at a time."""

LINEAR = (Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN)
"""Roles that are a matrix of their own in every layer."""


def role_of(family: str, parameter: str) -> tuple[Role, int | None]:
    """Role and layer of a parameter such as "model.layers.3.self_attn.q_proj.bias"; the layer is None outside layers.

    Raises KeyError for a parameter that no row of the family's table describes.
    """
    for role, pattern in _patterns(family):
        if match := pattern.fullmatch(parameter):
            layer = match.groupdict().get("layer")
            return role, None if layer is None else int(layer)
    raise KeyError(f"{family} has no role for {parameter}")


def modules_of(family: str, roles: Iterable[Role], num_layers: int) -> list[str]:
    """Names of the modules with these roles, layer by layer."""
    wanted = [ROLES[family][role] for role in roles if role in ROLES[family]]
    return [name.format(layer=layer) for layer in range(num_layers) for name in wanted]


@cache
def _patterns(family: str) -> tuple[tuple[Role, re.Pattern[str]], ...]:
    rows = ((role, re.escape(name).replace(r"\{layer\}", r"(?P<layer>\d+)")) for role, name in ROLES[family].items())
    return tuple((role, re.compile(rf"{name}(\.weight|\.bias)?")) for role, name in rows)
