"""FSDP2: every rank that has tokens of its own holds a piece of each weight, gradients are summed in float32 on the way
back. Ranks that share rows (context parallel) have different tokens, so they sum gradients like those that do not.

The divide factor is 1: what a step divides by is known before its first backward. gloo has no averaging reduction
either, so sums are asked for explicitly.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.runtime.parallel import ExpertMeshes, ParallelPlan


def weight_dtype(dtype: torch.dtype, *, sharded: bool) -> torch.dtype:
    """What weights are kept in: float32 masters under FSDP, which casts them to bfloat16 for computing."""
    return torch.float32 if sharded and dtype.itemsize < torch.float32.itemsize else dtype


def shard(
    model: torch.nn.Module,
    plan: ParallelPlan,
    mesh: DeviceMesh,
    dtype: torch.dtype,
    experts: ExpertMeshes | None = None,
) -> None:
    """Shard ``model`` in place over the axes of data and context: each layer by itself, the rest with the root.

    Embedding and output layer stay gathered through a step: the loss reads the output weight outside its module. So
    does a whole pipeline stage, which is asked for many micro-batches in turn. Experts that are spread over ranks are
    sharded over those that have the same ``experts``.
    """
    narrow = dtype.itemsize < torch.float32.itemsize
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False) if narrow else MixedPrecisionPolicy()
    settings: dict[str, Any] = {"mp_policy": policy, "reshard_after_forward": plan.pp == 1}
    if experts is not None:
        for module in [module for module in model.modules() if "gate_up_proj" in module._parameters]:
            along = partial(_dimension, shards=experts.same.size(-1))
            fully_shard(module, mesh=experts.same, shard_placement_fn=along, **settings)
    settings["mesh"] = plan.with_replicas(mesh, plan.token_mesh(mesh))
    settings["shard_placement_fn"] = partial(_dimension, shards=settings["mesh"].size(-1))
    for layer in layers_of(model):
        fully_shard(layer, **settings)
    fully_shard(model, **settings)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _dimension(parameter: torch.nn.Parameter, *, shards: int) -> Shard | None:
    """Experts [E, F, D] are sharded by features where there are fewer of them than shards; the rest along the first."""
    own = parameter._local_tensor if isinstance(parameter, DTensor) else parameter
    few = own.ndim == 3 and own.shape[0] % shards and own.shape[1] % shards == 0
    return Shard(1) if few else None


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated layers: the longest list of modules in the model, or that of a pipeline stage."""
    lists = [
        list(module.children())
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict)
    ]
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


# It remarks on exchanges one after the other; what is gathered here is gathered at the end of a run.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that ranks hold pieces of; every rank calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
