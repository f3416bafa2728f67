"""What is left of a step's gradients when its last backward pass is over: parts that ranks have yet to add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate

from seqpack.train.sharding import whole

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


def clip(
    parameters: Sequence[torch.Tensor],
    max_norm: float,
    *,
    stages: dist.ProcessGroup | None,
    copies: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Norm of all gradients together before clipping, a scalar; scales them to ``max_norm`` at most.

    Gradients may lie on several meshes: experts do not lie like the rest. The ranks of ``stages`` have other layers
    each. ``copies`` are clipped and not counted: another parameter stands for them.
    """
    left_out = {id(copy) for copy in copies}
    by_mesh: dict[object, list[torch.Tensor]] = defaultdict(list)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        if parameter.grad is not None and id(parameter) not in left_out:
            by_mesh[getattr(parameter.grad, "device_mesh", None)].append(parameter.grad)
    norms = [whole(torch.nn.utils.get_total_norm(group, foreach=True)) for group in by_mesh.values()]
    if len(norms) == 1 and stages is None:
        norm = norms[0]
    else:
        squares = torch.stack([norm.square() for norm in norms]).sum() if norms else torch.zeros(())
        if stages is not None:
            dist.all_reduce(squares, group=stages)
        norm = squares.sqrt()
    scale = torch.clamp(max_norm / (norm + MIN_NORM), max=1.0)
    own = [gradient._local_tensor if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    torch._foreach_mul_(own, scale.to(own[0].dtype))
    return norm
