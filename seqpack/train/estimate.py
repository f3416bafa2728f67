"""What a layout asks of each process - memory, traffic, waiting - reckoned from the configuration of the model.

Weights are counted exactly, as every rank cuts them; activations and traffic by formula, for micro-batches of equally
many tokens. Nothing is allocated and no process group is needed, so 1,024 ranks cost no more than two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from seqpack.models.expert_parallel import num_experts
from seqpack.models.roles import ROLES, Role, role_of
from seqpack.models.tensor_parallel import EXPERTS, cut_dimension
from seqpack.train.bubble import course
from seqpack.train.loss import LOGIT_BYTES
from seqpack.train.summary import LayoutEstimate, Traffic

if TYPE_CHECKING:
    from typing import Literal

    from seqpack.models.stages import PipelineCut
    from seqpack.runtime.parallel import ParallelPlan

WIDE = 4
"""Bytes of float32: masters, moments of AdamW, gradients that are summed."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One step on one data parallel rank: micro-batches, the tokens of each, and bytes of a number in computing."""

    num_batches: int
    tokens: int
    element_bytes: int
    recompute: Literal["none", "selective", "full"] = "none"


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """Weights of one pipeline rank as tensor and expert parallel ranks cut them, before FSDP shards them.

    ``layers`` is how many are counted in the repeated layers, the largest of which has ``largest``.
    """

    dense: int
    experts: int
    largest: int
    num_layers: int

    @property
    def total(self) -> int:
        return self.dense + self.experts


def estimate_layout(config: Any, plan: ParallelPlan, cut: PipelineCut | None, work: Workload) -> LayoutEstimate:
    """Of the process that needs most memory, and what the busiest process sends in a step."""
    outline = outline_of(config)
    ranks = [local_weights(outline, plan, cut, rank) for rank in range(plan.pp)]
    steps = course(cut, work.num_batches) if cut is not None else None
    candidates = []
    for rank, weights in enumerate(ranks):
        kept = steps.kept[rank] if steps is not None else 1
        layers = weights.num_layers * kept / (cut.stages_per_rank if cut is not None else 1)
        activations = int(layers * _kept_of_layer(config, plan, work)) + 2 * LOGIT_BYTES
        candidates.append((_state_bytes(weights, plan), _gathered_bytes(weights, plan, work), activations))
    state, gathered, activations = max(candidates, key=sum)
    heaviest = max(ranks, key=lambda weights: weights.total)
    return LayoutEstimate(
        ranks=plan.world_size,
        layout=str(plan),
        weights=heaviest.total,
        state_bytes=state,
        gathered_bytes=gathered,
        activation_bytes=activations,
        bubble=steps.bubble if steps is not None else 0.0,
        traffic=tuple(_traffic(config, plan, cut, heaviest, work)),
    )


def outline_of(config: Any) -> Any:
    """The model without memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def local_weights(outline: Any, plan: ParallelPlan, cut: PipelineCut | None, rank: int) -> LocalWeights:
    """What rank ``rank`` of the pipeline computes with, on the tensor parallel rank that has most of it."""
    config = outline.config
    layers = range(config.num_hidden_layers)
    stages = cut.of_rank(rank) if cut is not None else [0]
    own = {layer for stage in stages for layer in (cut.layers[stage] if cut is not None else layers)}
    last = len(cut.layers) - 1 if cut is not None else 0
    dense: Counter[int | None] = Counter()
    experts: Counter[int | None] = Counter()
    for name, weight in outline.named_parameters(remove_duplicate=cut is None or cut.size == 1):
        role, layer = _role(config, name)
        if layer is None:
            if (0 if role is Role.EMBEDDING else last) in stages:
                dense[None] += _numel(role, weight, config, plan)
        elif layer in own:
            (experts if role in EXPERTS else dense)[layer] += _numel(role, weight, config, plan)
    largest = max(dense[layer] + experts[layer] for layer in own)
    return LocalWeights(dense.total(), experts.total(), largest, len(own))


def _role(config: Any, name: str) -> tuple[Role | None, int | None]:
    """Role and layer; families without a table are not cut, so that the layer is not needed either."""
    return role_of(config.model_type, name) if config.model_type in ROLES else (None, 0)


def _numel(role: Role | None, weight: torch.Tensor, config: Any, plan: ParallelPlan) -> int:
    if role in EXPERTS:
        return weight.numel() // (plan.ep * plan.tp)
    dimension = None if role is None or plan.tp == 1 else cut_dimension(role, weight.ndim, config, plan.tp)
    if dimension is None:
        return weight.numel()
    return -(-weight.shape[dimension] // plan.tp) * weight.numel() // weight.shape[dimension]


def _state_bytes(weights: LocalWeights, plan: ParallelPlan) -> int:
    """Master weight, gradient and two moments in float32, sharded over the ranks that have tokens of their own."""
    shards = plan.dp_shard * plan.cp
    return 4 * WIDE * (weights.dense // shards + weights.experts // max(1, shards // plan.ep))


def _gathered_bytes(weights: LocalWeights, plan: ParallelPlan, work: Workload) -> int:
    """Whole weights in use at once (two layers; a whole pipeline stage), and gradients until the end of the step."""
    if plan.world_size == 1:
        return 0
    rest = weights.total - weights.largest * weights.num_layers
    gathered = weights.total if plan.pp > 1 else min(weights.total, max(rest, 0) + 2 * weights.largest)
    summed = weights.total if work.num_batches > 1 else 2 * weights.largest
    return gathered * work.element_bytes + summed * WIDE


def _kept_of_layer(config: Any, plan: ParallelPlan, work: Workload) -> float:
    """Bytes of activations that one layer keeps for its backward pass, on a rank."""
    width, tokens, element = config.hidden_size, work.tokens / plan.cp, work.element_bytes
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries = config.num_attention_heads * head
    keys = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head
    features = 2 * _features(config)
    own = width / plan.tp  # between blocks a rank has a part of the tokens
    inner = (2 * queries + 2 * keys + features) / plan.tp
    if work.recompute == "full":
        kept = element * own
    elif work.recompute == "selective":  # products and attention
        kept = element * (inner + 3 * own)
    else:
        norms = 2 * (WIDE + element) * own
        kept = norms + element * (2 * width + (3 * queries + 3 * keys + 2 * features) / plan.tp)
    return float(tokens * kept)


def _features(config: Any) -> int:
    """Features of the MLP that a token passes in a layer."""
    if num_experts(config) is None:
        return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    size = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    return int(size * config.num_experts_per_tok)


def _traffic(
    config: Any, plan: ParallelPlan, cut: PipelineCut | None, weights: LocalWeights, work: Workload
) -> list[Traffic]:
    """What one process sends to others in a step, by axis."""
    hidden = work.tokens / plan.cp * config.hidden_size * work.element_bytes * work.num_batches
    again = 1.5 if work.recompute == "full" else 1.0
    found = []
    if plan.tp > 1:
        # Four exchanges of all tokens forward and four back: gather and sum around attention and around the MLP.
        sent = hidden * (8 * again * weights.num_layers + 4) * (plan.tp - 1) / plan.tp
        found.append(Traffic("tp", "tokens around attention and MLP", int(sent)))
    if plan.cp > 1:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        pair = 2 * max(1, heads // plan.tp) * size * work.element_bytes * work.tokens / plan.cp
        sent = pair * (plan.cp - 1) * (2 + again) * weights.num_layers * work.num_batches
        found.append(Traffic("cp", "keys and values, at most", int(sent)))
    if plan.ep > 1:
        chosen = config.num_experts_per_tok * 4 * again * weights.num_layers / plan.tp
        found.append(Traffic("ep", "tokens to experts and back", int(hidden * chosen * (plan.ep - 1) / plan.ep)))
    if cut is not None:
        found.append(
            Traffic("pp", "hidden states and their gradients", int(2 * hidden / plan.tp * cut.stages_per_rank))
        )
    if (shards := plan.dp_shard * plan.cp) > 1:
        gathers = 1 if plan.pp > 1 else 2 * work.num_batches
        dense = weights.dense * (shards - 1) / shards
        experts = weights.experts * max(0, shards - plan.ep) / shards
        sent = (dense + experts) * (gathers * work.element_bytes + WIDE)
        found.append(Traffic("dp_shard", "weights to gather, gradients to sum", int(sent)))
    if plan.dp_replicate > 1:
        share = 2 * (plan.dp_replicate - 1) / plan.dp_replicate / shards
        found.append(Traffic("dp_replicate", "gradients to sum", int(weights.total * WIDE * share)))
    return found
