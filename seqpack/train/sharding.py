"""FSDP2: every rank that has tokens of its own holds a piece of each weight, gradients are summed in float32 on the way
back. Ranks that share rows (context parallel) have different tokens, so they sum gradients like those that do not.

The divide factor is 1: what a step divides by is known before its first backward. gloo has no averaging reduction
either, so sums are asked for explicitly.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from seqpack.models.packed import PackedLM
    from seqpack.runtime.parallel import ParallelPlan


def weight_dtype(dtype: torch.dtype, *, sharded: bool) -> torch.dtype:
    """What weights are kept in: float32 masters under FSDP, which casts them to bfloat16 for computing."""
    return torch.float32 if sharded and dtype.itemsize < torch.float32.itemsize else dtype


def shard(model: PackedLM, plan: ParallelPlan, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Shard ``model`` in place over the axes of data and context: each layer by itself, the rest with the root.

    Embedding and output layer stay gathered through a step: the loss reads the output weight outside its module.
    """
    narrow = dtype.itemsize < torch.float32.itemsize
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False) if narrow else MixedPrecisionPolicy()
    settings: dict[str, Any] = {"mesh": _token_mesh(plan, mesh), "mp_policy": policy}
    for layer in layers_of(model):
        fully_shard(layer, **settings)
    fully_shard(model, **settings)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _token_mesh(plan: ParallelPlan, mesh: DeviceMesh) -> DeviceMesh:
    """The ranks that have tokens of their own: one axis to shard over, and before it that of replicas, if any."""
    if plan.cp == 1:
        return mesh["dp_replicate", "dp_shard"] if plan.dp_replicate > 1 else mesh["dp_shard"]
    shards = mesh["dp_shard", "cp"]._flatten("dp_shard_cp")
    return DeviceMesh._concatenate([mesh["dp_replicate"], shards]) if plan.dp_replicate > 1 else shards


def layers_of(model: PackedLM) -> list[torch.nn.Module]:
    """The repeated layers: the longest list of modules in the model."""
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])


def full_state(
    model: Any, dtype: torch.dtype, *, keep: bool, names: Container[str] | None = None
) -> dict[str, torch.Tensor]:
    """Weights of a sharded model of transformers, all or those named, on the host of ranks that ``keep`` them.

    Every rank calls it.
    """
    found = {}
    for name, parameter in model.state_dict().items():
        if names is not None and name not in names:
            continue
        weight = whole(parameter)
        if keep:
            found[name] = weight.detach().to("cpu", dtype if weight.is_floating_point() else weight.dtype)
    return found


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that ranks hold pieces of; every rank calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
