"""What is left of a step's gradients when its last backward pass is over: parts that ranks have yet to add up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate

TENSOR_AXIS = "tp"
MIN_NORM = 1e-6
"""Added to a norm before it divides, as ``clip_grad_norm_`` does."""


def add_up_shared(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of parameters that every rank of a tensor parallel group has whole.

    Each rank got the part of its own tokens or heads. One exchange serves all of them, once a step: one for every norm
    and micro-batch would be many small ones, which cost their latency.
    """
    parts: dict[tuple[dist.ProcessGroup, torch.dtype], list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        gradient = parameter.grad
        if not isinstance(gradient, DTensor) or TENSOR_AXIS not in (names := gradient.device_mesh.mesh_dim_names or ()):
            continue
        axis = names.index(TENSOR_AXIS)
        if isinstance(gradient.placements[axis], Replicate):
            own = gradient._local_tensor
            parts[gradient.device_mesh.get_group(axis), own.dtype].append(own)
    for (group, _), tensors in parts.items():
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=group)
        for tensor, added in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(added.view_as(tensor))


def clip(parameters: Sequence[torch.Tensor], max_norm: float, *, copies: Sequence[torch.Tensor]) -> torch.Tensor:
    """Norm of all gradients together before clipping, a scalar; scales them to ``max_norm`` at most.

    Every rank adds the squares of what it holds, divided by the ranks that hold the same: wherever gradients lie, on
    one mesh or several, one exchange of a number is enough. ``copies`` are clipped and not counted: another parameter
    stands for them.
    """
    left_out = {id(copy) for copy in copies}
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    own = [gradient._local_tensor if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    shares = [0.0 if id(p) in left_out else 1.0 / _holders(g) for p, g in zip(with_gradient, gradients, strict=True)]
    wide = torch.float64 if own[0].device.type in ("cpu", "cuda") else torch.float32
    norms = torch.stack([norm.to(wide) for norm in torch._foreach_norm(own)])
    squares = norms.square() @ norms.new_tensor(shares)
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        dist.all_reduce(squares)
    norm = squares.sqrt()
    scale = torch.clamp(max_norm / (norm + MIN_NORM), max=1.0)
    torch._foreach_mul_(own, scale.to(own[0].dtype))
    return norm


def _holders(gradient: torch.Tensor) -> int:
    """Ranks that hold the same part of a gradient as this one."""
    if not isinstance(gradient, DTensor):
        return 1
    mesh = gradient.device_mesh
    whole = [axis for axis, placement in enumerate(gradient.placements) if isinstance(placement, Replicate)]
    return math.prod(mesh.size(axis) for axis in whole)
