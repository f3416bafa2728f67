"""The NPU's fused operators for what surrounds attention: RMSNorm, rotation of queries and keys, SwiGLU.

Each function computes what the layers of transformers compute, with torch's own operators where the fused one is not
there or does not take the input. ``operators`` is the namespace they are in: ``torch.ops.npu`` unless a test says else.
Checked like the attention: against a numerical model and the schemas, never on an NPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

MAX_ROTARY_HEADS, MAX_ROTARY_SIZE = 1000, 896
"""What the rotation takes stays below both."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, operators: Any = None) -> Tensor:
    """``x / sqrt(mean(x ** 2) + epsilon) * weight`` over the last dimension, in the dtype of ``x``."""
    fused = _operator(operators, "npu_rms_norm")
    if fused is not None and x.dtype == weight.dtype:
        normed: Tensor = fused(x, weight, epsilon)[0]
        return normed
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def rotate(
    q_1NTH: Tensor, k_1KTH: Tensor, cos_1TH: Tensor, sin_1TH: Tensor, *, operators: Any = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions; the halves of a head belong together.

    ``cos_1TH`` and ``sin_1TH`` are within [-1, 1]: not those of a model that scales its rotation (YaRN).
    """
    fused = _operator(operators, "npu_rotary_mul")
    heads, size = q_1NTH.shape[1], q_1NTH.shape[3]
    takes = heads < MAX_ROTARY_HEADS and size % 2 == 0 and size < MAX_ROTARY_SIZE and q_1NTH.dtype == cos_1TH.dtype
    if fused is None or not takes:
        cos_11TH, sin_11TH = cos_1TH[:, None], sin_1TH[:, None]
        q, k = (x * cos_11TH + _other_half(x) * sin_11TH for x in (q_1NTH, k_1KTH))
        return q, k
    # As [1, T, N, H], the order in which the layers around have these in memory: nothing is copied.
    cos_1T1H, sin_1T1H = cos_1TH[:, :, None], sin_1TH[:, :, None]
    q, k = (fused(x.transpose(1, 2), cos_1T1H, sin_1T1H).transpose(1, 2) for x in (q_1NTH, k_1KTH))
    return q, k


def swiglu(gate: Tensor, up: Tensor, *, operators: Any = None) -> Tensor:
    """``silu(gate) * up``."""
    fused = _operator(operators, "npu_swiglu")
    if fused is None:
        return silu(gate) * up
    activated: Tensor = fused(torch.cat((gate, up), -1), -1)
    return activated


def _operator(operators: Any, name: str) -> Any:
    # Tensors go by position: versions of torch_npu give the first one different names.
    return getattr(torch.ops.npu if operators is None else operators, name, None)


def _other_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)
