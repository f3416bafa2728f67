"""Pipeline parallelism: which layers are a stage, and a stage as a module of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from seqpack.core.errors import ConfigError
from seqpack.models.local_parameters import local
from seqpack.models.roles import FAMILIES, ROLES, Role, role_of
from seqpack.models.router import loss_of_sums, routing_sums

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention
    from seqpack.models.packed import HeadLoss
    from seqpack.runtime.batch import Batch

FLAG = "--pipeline-model-parallel-size"
LIST_FLAG = "--num-layer-list"
VIRTUAL_FLAG = "--num-layers-per-virtual-pipeline-stage"


@dataclass(frozen=True, slots=True)
class PipelineCut:
    """``layers`` of every stage, in the order of the model, on ``size`` ranks; ``zero_bubble`` is the schedule.

    Rank r has the stages r, r + size, r + 2 size, ...; or, if ``v_shaped``, the stages r and 2 size - 1 - r.
    """

    size: int
    layers: tuple[range, ...]
    zero_bubble: bool = False

    @property
    def stages_per_rank(self) -> int:
        return len(self.layers) // self.size

    @property
    def v_shaped(self) -> bool:
        return self.schedule == "ZBVZeroBubble"

    @property
    def schedule(self) -> str:
        """The name torch has for it."""
        if self.zero_bubble:
            return "ZBVZeroBubble" if self.stages_per_rank == 2 else "InterleavedZeroBubble"
        return "1F1B" if self.stages_per_rank == 1 else "Interleaved1F1B"

    def of_rank(self, rank: int) -> list[int]:
        """Stages of a rank of the pipeline, the earliest first."""
        if self.v_shaped:
            return [rank, 2 * self.size - 1 - rank]
        return list(range(rank, len(self.layers), self.size))

    def __str__(self) -> str:
        counts = ",".join(str(len(layers)) for layers in self.layers)
        return f"{self.schedule}, layers by stage {counts}"


def cut_pipeline(
    config: Any,
    size: int,
    costs: Sequence[float],
    *,
    schedule: Literal["1f1b", "zero-bubble"] = "1f1b",
    layers_per_stage: int | None = None,
    layer_list: str | None = None,
) -> PipelineCut:
    """Stages for a pipeline of ``size`` ranks; ``costs`` are those of every layer and, at the end, the output layer.

    Raises ConfigError SP610 for a cut that is not possible, with the flags that ask for it.
    """
    num_layers = len(costs) - 1
    if config.model_type not in ROLES:
        raise ConfigError(
            "SP610",
            f"{FLAG} {size}: the parts of family {config.model_type!r} are not known",
            help=f"known are {', '.join(FAMILIES)}; a family is added by a row in ROLES of seqpack/models/roles.py",
        )
    per_rank = _stages_per_rank(size, num_layers, schedule, layers_per_stage)
    num_stages = size * per_rank
    if num_stages > num_layers:
        raise ConfigError(
            "SP610",
            f"{FLAG} {size} makes {num_stages} stages, and the model has {num_layers} layers",
            help="choose a smaller number",
        )
    counts = _read_list(layer_list, num_stages, num_layers) if layer_list else _balanced(costs, num_stages)
    ends = list(accumulate(counts, initial=0))
    layers = tuple(range(start, end) for start, end in pairwise(ends))
    return PipelineCut(size, layers, schedule == "zero-bubble")


def _stages_per_rank(size: int, num_layers: int, schedule: str, layers_per_stage: int | None) -> int:
    if layers_per_stage is None:
        return 2 if schedule == "zero-bubble" else 1
    per_rank, left = divmod(num_layers, size * layers_per_stage)
    if left or per_rank < 2:
        raise ConfigError(
            "SP610",
            f"{VIRTUAL_FLAG} {layers_per_stage}: {num_layers} layers on {FLAG} {size} are not two or more stages of so "
            "many layers each",
            help="choose a divisor of the layers of a process that is smaller than all of them, or leave it out",
        )
    return per_rank


def _read_list(text: str, num_stages: int, num_layers: int) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = []
    if len(counts) != num_stages or sum(counts) != num_layers or min(counts) < 1:
        raise ConfigError(
            "SP610",
            f"{LIST_FLAG} {text}: not {num_stages} numbers of at least 1 that add up to {num_layers} layers",
            help="give the layers of every stage in the order of the model, such as 8,9,9,6",
        )
    return counts


def _balanced(costs: Sequence[float], num_stages: int) -> list[int]:
    """Layers of each stage so that the dearest stage is as cheap as can be; the output layer is on the last one."""
    items = [*costs[:-2], costs[-2] + costs[-1]]
    ends = [0.0, *accumulate(items)]
    # best[n]: the cheapest dearest stage of the first n layers, and where its last stage begins.
    best = [(0.0, 0)] + [(float("inf"), 0)] * len(items)
    starts = []
    for stage in range(1, num_stages + 1):
        best = [
            min(
                ((max(best[start][0], ends[end] - ends[start]), start) for start in range(stage - 1, end)),
                default=(float("inf"), 0),
            )
            for end in range(len(items) + 1)
        ]
        starts.append([start for _, start in best])
    counts, end = [], len(items)
    for stage_starts in reversed(starts):
        counts.append(end - stage_starts[end])
        end = stage_starts[end]
    return counts[::-1]


class Stage(nn.Module):
    """Some layers of ``model`` (of transformers), under their names in it: ``forward`` gives what the next stage takes.

    The first stage looks tokens up, the last gives the loss, ``[1]``. Between stages travel the hidden states and, if
    the model has a router loss, the ``routing_sums`` of the layers so far. What does not travel - boundaries, position
    ids, labels - every stage finds in ``batches`` by the number of the micro-batch.
    """

    model: Any

    def __init__(self, model: Any, layers: range, *, first: bool, last: bool) -> None:
        super().__init__()
        base = model.base_model
        self.config = model.config
        self.model = nn.Module()
        self.model.config = model.config
        self.model.model = inner = nn.Module()
        if first:
            inner.embed_tokens = base.embed_tokens
        inner.layers = nn.ModuleDict({str(number): base.layers[number] for number in layers})
        inner.rotary_emb = base.rotary_emb
        if last:
            inner.norm = base.norm
            self.model.lm_head = model.lm_head
        self.first, self.last = first, last
        self.batches: Mapping[int, Batch] = {}
        self._attention: Any = None
        self._head_loss: Any = None
        self._sharers = 1
        self._routers = _RouterOutputs(model.config, inner.layers.named_modules(prefix="model.layers"))

    def with_loss(self, attention: VarlenAttention, head_loss: HeadLoss, sharers: int) -> Stage:
        """The same stage, ready to compute; see ``PackedLM`` for what is passed."""
        self._attention, self._head_loss, self._sharers = attention, head_loss, sharers
        return self

    def untie(self) -> None:
        """Give the output layer a weight of its own: the embedding it was is on another stage."""
        head = self.model.lm_head
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)

    def forward(self, x: torch.Tensor, sums_3E: torch.Tensor | None = None, *, number: torch.Tensor) -> Any:
        batch = self.batches[int(number)]
        inner = self.model.model
        hidden_1TD = inner.embed_tokens(batch.input_ids) if self.first else x
        rotation = inner.rotary_emb(hidden_1TD, batch.position_ids)
        with self._routers as routers:
            for layer in inner.layers.values():
                hidden_1TD = layer(
                    hidden_1TD,
                    attention_mask=None,
                    position_ids=batch.position_ids,
                    position_embeddings=rotation,
                    use_cache=False,
                    segments=batch.segments,
                    varlen_attention=self._attention,
                    shared_rows=batch.shared,
                )
            sums_3E = routers.add(sums_3E, batch.is_real[0])
        if self.last:
            return torch.stack([self._loss(inner.norm(hidden_1TD)[0], sums_3E, batch)])
        return hidden_1TD if sums_3E is None else (hidden_1TD, sums_3E)

    def _loss(self, hidden_TD: torch.Tensor, sums_3E: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        weights_T = None if batch.loss_weights is None else batch.loss_weights[0]
        loss: torch.Tensor = self._head_loss(hidden_TD, local(self.model.lm_head.weight), batch.labels[0], weights_T)
        if sums_3E is not None:
            router = loss_of_sums(sums_3E, torch.Tensor.detach if batch.shared is None else batch.shared.sum)
            loss = loss + self.config.router_aux_loss_coef * batch.loss_units / self._sharers * router
        return loss


class _RouterOutputs:
    """Collects what the routers say in one forward pass; in a recomputation nobody asks."""

    def __init__(self, config: Any, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self._active = bool(getattr(config, "output_router_logits", False))
        self._config = config
        self._found: list[torch.Tensor] | None = None
        if self._active:
            for name, module in modules:
                if any(True for _ in module.parameters(recurse=False)) and _is_router(config.model_type, name):
                    module.register_forward_hook(self._take)

    def __enter__(self) -> _RouterOutputs:
        self._found = []
        return self

    def __exit__(self, *error: object) -> None:
        self._found = None

    def add(self, sums_3E: torch.Tensor | None, is_real_T: torch.Tensor) -> torch.Tensor | None:
        """Sums of earlier stages and of the layers of this one; None if there is no router loss."""
        if not self._active:
            return None
        for logits_TE in self._found or ():
            own_3E = routing_sums(logits_TE, self._config.num_experts_per_tok, is_real_T)
            sums_3E = own_3E if sums_3E is None else sums_3E + own_3E
        assert sums_3E is not None, "the first stage has no layer with experts"
        return sums_3E

    def _take(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._found is not None:
            self._found.append(output[0])


def _is_router(family: str, name: str) -> bool:
    try:
        return role_of(family, name)[0] is Role.ROUTER
    except KeyError:
        return False
