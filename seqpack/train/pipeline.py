"""A step through the stages of a pipeline, in the order of one of torch's schedules.

All micro-batches of a step have the same number of tokens: shorter ones are filled up on the host with padding, which
is counted as such. So the shapes that travel are known to both sides and nothing has to be asked for.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

from seqpack.core.errors import ConfigError
from seqpack.runtime.collectives import own_run
from seqpack.runtime.parallel import AXES
from seqpack.train.sharding import whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.models.stages import PipelineCut, Stage
    from seqpack.runtime.batch import Batch

LENGTH_MULTIPLE = 64
"""Tokens of a micro-batch are filled up to a multiple of it: every other length needs a schedule of its own."""
FORWARD_ACTIONS = frozenset({"UNSHARD", "RESHARD", "FORWARD", "SEND_F", "RECV_F"})
"""What of a schedule an evaluation needs, by torch's names."""
HEAD, EMBEDDING = "model.lm_head.weight", "model.model.embed_tokens.weight"


class PipelineLM(nn.Module):
    """The stages of this rank. ``accumulate`` and ``evaluate`` take all micro-batches of a step at once.

    Batches come in whole; ``share`` takes what this rank holds of one that it shares with others.
    Every step has ``num_batches``; a smaller one, at the end of a run, is filled up with some that do not count.
    ``dtype`` is that of hidden states. Parameters have the names they have in ``PackedLM``; a tied output layer that is
    another stage's embedding has that one's name, and is one of ``copies``.
    """

    def __init__(
        self, stages: Sequence[Stage], cut: PipelineCut, num_batches: int, mesh: DeviceMesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.stages: Any = nn.ModuleList(stages)
        self.pp_group = mesh.get_group("pp")
        self._tp_group = mesh.get_group("tp")
        self._cut = cut
        self._num_batches = num_batches
        self.share: Callable[[Batch], Batch] = _keep
        self._numbers = cut.of_rank(dist.get_rank(self.pp_group))
        self._dtype = dtype
        self._schedules: dict[int, Any] = {}
        self._loss_units = 1
        # Ranks that share rows then hold equally many tokens of each.
        self._length_multiple = math.lcm(LENGTH_MULTIPLE, mesh.size(AXES.index("cp")))

    @property
    def config(self) -> Any:
        return self.stages[0].config

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.stages.parameters()).device
        return device

    @property
    def copies(self) -> list[nn.Parameter]:
        """Parameters that another stage has as well: left out where all are counted."""
        if not self.config.tie_word_embeddings:
            return []
        return [stage.model.lm_head.weight for stage in self.stages if stage.last and not stage.first]

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for stage in self.stages:
            for name, parameter in stage.named_parameters(prefix, recurse, remove_duplicate):
                tied = self.config.tie_word_embeddings and name == HEAD
                yield (EMBEDDING if tied else name), parameter

    def accumulate(self, batches: Sequence[Batch], loss_units: int) -> tuple[torch.Tensor, list[Batch]]:
        """Add the gradients of all micro-batches; returns the loss over ``loss_units``, and what was computed.

        The loss is 0 except on the last stage.
        """
        batches = self._same_length(batches)
        loss = self._run(batches, loss_units, train=True)
        self._add_up_tied()
        return loss, batches

    def evaluate(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Their summed loss, 0 except on the last stage."""
        return self._run(self._same_length(batches), 1, train=False)

    def _same_length(self, batches: Sequence[Batch]) -> list[Batch]:
        batches = [*batches, *[batches[0].without_labels()] * (self._num_batches - len(batches))]
        longest = max(batch.input_ids.shape[1] for batch in batches)
        length = -(-longest // self._length_multiple) * self._length_multiple
        return [self.share(batch.padded(length)) for batch in batches]

    def _run(self, batches: Sequence[Batch], loss_units: int, *, train: bool) -> torch.Tensor:
        known = {number: batch.to(self.device) for number, batch in enumerate(batches)}
        self._loss_units = loss_units
        for stage in self.stages:
            stage.batches = known
        numbers = torch.arange(len(batches))
        arguments = (numbers,) if 0 in self._numbers else ()
        losses: list[torch.Tensor] = []
        last = {"target": numbers, "losses": losses} if len(self._cut.layers) - 1 in self._numbers else {}
        schedule = self._schedule(batches[0].input_ids.shape[1])
        if train:
            schedule.step(*arguments, number=numbers, **last)
        else:
            with _forward_only(schedule):
                schedule.eval(*arguments, number=numbers, **last)
        for stage in self.stages:
            stage.batches = {}
        total = torch.zeros((), dtype=torch.float64)
        for loss in losses:
            total += loss.detach().to(total)
        return total

    def _schedule(self, length: int) -> Any:
        if length not in self._schedules:
            stages = [self._torch_stage(*pair, length) for pair in zip(self._numbers, self.stages, strict=True)]
            kind: Any = get_schedule_class(self._cut.schedule)
            self._schedules[length] = kind(
                stages if self._cut.stages_per_rank > 1 else stages[0],
                n_microbatches=self._num_batches,
                loss_fn=self._mean,
                scale_grads=False,
            )
        return self._schedules[length]

    def _torch_stage(self, number: int, stage: Any, length: int) -> PipelineStage:
        """The shapes are given: torch would find them out by a forward and a backward pass of its own."""
        run = own_run(length, self._tp_group)
        hidden = torch.empty(
            1, run.stop - run.start, self.config.hidden_size, dtype=self._dtype, device="meta", requires_grad=True
        )
        travels = [hidden]
        if getattr(self.config, "output_router_logits", False):
            experts = getattr(self.config, "num_experts", None) or self.config.num_local_experts
            wide = torch.promote_types(self._dtype, torch.float32)
            travels.append(torch.empty(3, experts, dtype=wide, device="meta", requires_grad=True))
        return PipelineStage(
            stage,
            number,
            len(self._cut.layers),
            self.device,
            input_args=(torch.empty(1, dtype=torch.int64, device="meta"),) if stage.first else tuple(travels),
            output_args=(torch.empty(1, device="meta", requires_grad=True),) if stage.last else tuple(travels),
            group=self.pp_group,
        )

    def _mean(self, loss: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return loss.sum() / self._loss_units

    def _add_up_tied(self) -> None:
        """The embedding is the output layer too: both get the sum of their gradients, to the same bits."""
        if not self.config.tie_word_embeddings or len(self._cut.layers) == 1:
            return
        first: list[Any] = [stage.model.model.embed_tokens.weight for stage in self.stages if stage.first]
        copies: list[Any] = self.copies
        if first and copies:
            total = first[0].grad + copies[0].grad
            first[0].grad, copies[0].grad = total, total.clone()
        elif first or copies:
            gradient = (first or copies)[0].grad._local_tensor
            other = torch.empty_like(gradient)
            peer = dist.get_global_rank(self.pp_group, self._cut.size - 1 if first else 0)
            for work in dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, gradient.contiguous(), peer, self.pp_group),
                    dist.P2POp(dist.irecv, other, peer, self.pp_group),
                ]
            ):
                work.wait()
            gradient += other


def _keep(batch: Batch) -> Batch:
    return batch


@contextlib.contextmanager
def _forward_only(schedule: Any) -> Iterator[None]:
    """Without what a schedule of several stages a rank does for gradients.

    torch goes through all of it in an evaluation too, and fails where two stages of a rank are neighbours (V-shaped).
    """
    whole = getattr(schedule, "pipeline_order_with_comms", None)
    if whole is None:  # one stage a rank: torch leaves out the rest by itself
        yield
        return
    schedule.pipeline_order_with_comms = {
        rank: [action for action in actions if action.computation_type.name in FORWARD_ACTIONS]
        for rank, actions in whole.items()
    }
    try:
        yield
    finally:
        schedule.pipeline_order_with_comms = whole


def whole_state(model: PipelineLM, dtype: torch.dtype, *, keep: bool) -> dict[str, torch.Tensor]:
    """Weights of all stages under the names of transformers, on the host of the rank that may ``keep`` them.

    That is the first of its pipeline; every rank calls it.
    """
    found: dict[str, torch.Tensor] = {}
    group, here = model.pp_group, dist.get_rank(model.pp_group)
    copies = {id(copy) for copy in model.copies}
    own = [(name, weight) for name, weight in model.named_parameters() if id(weight) not in copies]
    for owner in range(dist.get_world_size(group)):
        described: list[Any] = [[(name, weight.shape, weight.dtype) for name, weight in own] if here == owner else None]
        source = dist.get_global_rank(group, owner)
        dist.broadcast_object_list(described, src=source, group=group)
        if here not in (0, owner):
            continue
        for index, (name, shape, kind) in enumerate(described[0]):
            weight = (
                whole(own[index][1]).detach() if here == owner else torch.empty(shape, dtype=kind, device=model.device)
            )
            if owner != 0:
                _hand_over(weight, source, group, sends=here == owner)
            if keep:
                found[name.removeprefix("model.")] = weight.to("cpu", dtype)
    if keep and model.config.tie_word_embeddings:
        found[HEAD.removeprefix("model.")] = found[EMBEDDING.removeprefix("model.")]
    return found


def _hand_over(weight: torch.Tensor, source: int, group: dist.ProcessGroup, *, sends: bool) -> None:
    """From the rank ``source`` of all to the first of the pipeline."""
    if sends:
        dist.send(weight.contiguous(), dist.get_global_rank(group, 0), group=group)
    else:
        dist.recv(weight, source, group=group)


def check_micro_batches(cut: PipelineCut, num_batches: int) -> None:
    """ConfigError SP610 if a schedule cannot run with so many micro-batches a step and data parallel process."""
    rounds = max(1, num_batches // cut.size)
    if num_batches < cut.size:
        reason = f"are fewer than the {cut.size} processes of the pipeline"
    elif cut.stages_per_rank > 1 and not cut.v_shaped and num_batches % rounds:
        reason = f"are not a multiple of {rounds}, the rounds of {cut.schedule}"
    else:
        return
    raise ConfigError(
        "SP610",
        f"--pipeline-model-parallel-size {cut.size}: {num_batches} micro-batches a step for each data parallel process "
        f"{reason}",
        help="change --global-batch-size or --micro-batch-size, or the number of processes",
    )
