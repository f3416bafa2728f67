"""Modules of a model of transformers that compute with other functions, one object at a time.

Only ``forward`` changes: names, parameters and the modules inside stay, so that checkpoints, LoRA, FSDP and
recomputation see the same model, and another model in the process is not touched. Whatever cuts matrices comes
afterwards: a norm whose weight is a ``DTensor`` then reads its piece, as the stock one does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from seqpack.models.roles import ROLES, Role, role_of

NORMS = (Role.ATTENTION_NORM, Role.MLP_NORM, Role.FINAL_NORM, Role.Q_NORM, Role.K_NORM)
ROTATION_NAME = "apply_rotary_pos_emb"
"""What the code of attention calls the function that rotates, in every family of ``ROLES``."""


class Part(StrEnum):
    """What a set of kernels may replace, by the name it has in messages."""

    NORM = "RMSNorm"
    ROTATION = "rotation"
    MLP = "SwiGLU"


@dataclass(frozen=True, slots=True)
class Kernels:
    """Functions in place of those of transformers; None where these stay.

    ``rms_norm(x, weight, epsilon)``; ``rotate(q_1NTH, k_1KTH, cos_1TH, sin_1TH)`` -> both rotated;
    ``swiglu(gate, up)`` -> ``silu(gate) * up``. ``scaled_rotation``: ``rotate`` takes cos and sin beyond [-1, 1], as
    YaRN has them.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor] | None = None
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    swiglu: Callable[[Tensor, Tensor], Tensor] | None = None
    scaled_rotation: bool = True


def replace_parts(model: Any, kernels: Kernels, parts: Collection[Part]) -> frozenset[Part]:
    """Have ``model``, whole and of a family of ``ROLES``, compute these parts with ``kernels``; which were replaced.

    Left as they are: an MLP with another activation than SiLU, experts, and a scaled rotation the kernels do not take.
    """
    rotate = kernels.rotate
    if rotate is not None and not kernels.scaled_rotation and model.base_model.rotary_emb.attention_scaling != 1:
        rotate = None
    replaced = set()
    for part, module in _modules(model):
        if part not in parts:
            continue
        kind: Any = type(module)
        if part is Part.NORM and kernels.rms_norm is not None:
            module.__class__ = _norm(kind, kernels.rms_norm)
        elif part is Part.ROTATION and rotate is not None:
            module.__class__ = _attention(kind, rotate)
        elif part is Part.MLP and kernels.swiglu is not None and model.config.hidden_act in ("silu", "swish"):
            module.__class__ = _mlp(kind, kernels.swiglu)
        else:
            continue
        replaced.add(part)
    return frozenset(replaced)


def _modules(model: Any) -> list[tuple[Part, nn.Module]]:
    family, modules = model.config.model_type, dict(model.named_modules())
    assert family in ROLES, family
    found = {}
    for name, _ in model.named_parameters():
        role, _layer = role_of(family, name)
        owner = name.rpartition(".")[0]
        parent = owner.rpartition(".")[0]
        if role in NORMS:
            found[owner] = Part.NORM
        elif role is Role.Q:
            found[parent] = Part.ROTATION
        elif role is Role.GATE:
            found[parent] = Part.MLP
    return [(part, modules[name]) for name, part in found.items()]


@cache
def _norm(kind: Any, rms_norm: Any) -> Any:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        normed: Tensor = rms_norm(hidden_states, self.weight, self.variance_epsilon)
        return normed

    return _with_forward(kind, forward)


@cache
def _mlp(kind: Any, swiglu: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out

    return _with_forward(kind, forward)


@cache
def _attention(kind: Any, rotate: Any) -> Any:
    """The family's own code of attention, in which the name of the function that rotates means another one."""
    stock: Any = inspect.unwrap(kind.forward)
    assert ROTATION_NAME in stock.__code__.co_names, f"{kind.__name__} rotates in another way"
    names = {**stock.__globals__, ROTATION_NAME: rotate}
    forward = FunctionType(stock.__code__, names, stock.__name__, stock.__defaults__, stock.__closure__)
    forward.__kwdefaults__ = stock.__kwdefaults__
    return _with_forward(kind, forward)


def _with_forward(kind: Any, forward: Any) -> Any:
    # The name stays: transformers looks for it where it gives weights their first values.
    return type(kind.__name__, (kind,), {"forward": forward})
