"""From a whole model to this rank's part of it: pipeline stages, then tensors, then experts, then FSDP around."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from seqpack.models.expert_parallel import spread_experts
from seqpack.models.packed import PackedLM
from seqpack.models.stages import PipelineCut, Stage
from seqpack.models.tensor_parallel import cut_tensors
from seqpack.train.loss import VocabularyPart, chunked_cross_entropy
from seqpack.train.pipeline import PipelineLM
from seqpack.train.sharding import shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.attention.contract import VarlenAttention
    from seqpack.models.packed import HeadLoss
    from seqpack.runtime.parallel import ExpertMeshes, ParallelPlan


Observe = Callable[["HeadLoss"], "HeadLoss"]


def as_it_is(loss: HeadLoss) -> HeadLoss:
    return loss


def assemble(
    hf_model: Any,
    attention: VarlenAttention,
    plan: ParallelPlan,
    cut: PipelineCut | None,
    num_batches: int,
    mesh: DeviceMesh,
    dtype: torch.dtype,
    observe: Observe = as_it_is,
) -> PackedLM | PipelineLM:
    """What this rank trains of ``hf_model``, which every rank has whole; the rest of it can be forgotten.

    ``num_batches`` are the micro-batches of a step, ``dtype`` is that of computing. ``observe`` may put something
    around the loss.
    """
    experts = plan.expert_meshes(mesh) if plan.ep > 1 else None
    loss: HeadLoss = chunked_cross_entropy
    if plan.tp > 1:
        loss = partial(chunked_cross_entropy, part=VocabularyPart.of(hf_model.config.vocab_size, mesh.get_group("tp")))
    loss = observe(loss)
    if cut is None:
        _cut_matrices(hf_model, plan, mesh, experts)
        model = PackedLM(hf_model, attention, loss, sharers=plan.tp)
        shard(model, plan, mesh, dtype, experts)
        return model
    stages = []
    for number in cut.of_rank(mesh.get_local_rank("pp")):
        last = number == len(cut.layers) - 1
        stage = Stage(hf_model, cut.layers[number], first=number == 0, last=last)
        if last and hf_model.config.tie_word_embeddings:
            stage.untie()
        _cut_matrices(stage.model, plan, mesh, experts)
        stages.append(stage.with_loss(attention, loss, plan.tp))
        shard(stage, plan, mesh, dtype, experts)
    return PipelineLM(stages, cut, num_batches, mesh, dtype)


def _cut_matrices(model: Any, plan: ParallelPlan, mesh: DeviceMesh, experts: ExpertMeshes | None) -> None:
    if plan.tp > 1:
        cut_tensors(model, mesh["tp"])
    if experts is not None:
        spread_experts(model, experts.spread)
    elif plan.tp > 1:
        spread_experts(model, mesh["tp"])
