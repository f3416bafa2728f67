"""One optimizer step of a tiny float64 model on a layout, compared with the same step in one process.

Many cases run in one group of processes: starting processes would take longer than all of them. Norms and routers of
transformers compute in float32 even in float64 models, which turns differences of 1e-17 into 1e-8 where gradients of
several ranks pass them one by one; here they compute in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.cp.algorithms import Planner
from seqpack.models.load import ModelSpec, build_model
from seqpack.models.packed import PackedLM
from seqpack.models.recompute import recompute
from seqpack.models.stages import PipelineCut, cut_pipeline
from seqpack.options.context import ContextOptions
from seqpack.runtime.batch import collate
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.assemble import assemble
from seqpack.train.context import context_settings, make_planner, share_rows
from seqpack.train.flops import costs_of_layers
from seqpack.train.gradients import clip
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import accumulate_gradients
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.pipeline import PipelineLM
from seqpack.train.sharding import whole
from tests.distributed import run_ranks
from tests.models.conftest import EXTRAS, TINY

from .test_loop import CPU, make_rows

LENGTHS = [[9, 4, 1], [14], [2, 5, 6], [3, 3], [20, 1, 12, 7], [8], [2, 2], [5, 1]]
ROUTER = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Case:
    """A model, rows of one step, and how ranks share the work; ``degrees`` are those of ``ParallelPlan.of``."""

    family: str
    degrees: Mapping[str, int]
    tied: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 8
    micro: int = 1
    reduction: str = "token"
    recompute: str = "none"

    @property
    def model(self) -> tuple[object, ...]:
        """Cases that agree in it have one reference."""
        return self.family, self.tied, repr(self.settings), self.rows, self.micro, self.reduction

    def __str__(self) -> str:
        degrees = " ".join(f"{name}{degree}" for name, degree in self.degrees.items())
        chosen = [str(value) for value in (*self.pipeline.values(), *self.context.values())]
        words = [self.family, "tied" if self.tied else "", degrees, *chosen, self.recompute]
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Step:
    loss: float
    norm: float
    gradients: dict[str, np.ndarray]


def check_cases(size: int, cases: Sequence[Case]) -> None:
    """Every case on ``size`` ranks gives the loss, the gradients and their norm of one process."""
    wanted: dict[tuple[Any, ...], Step] = {}
    for case in cases:
        if case.model not in wanted:
            wanted[case.model] = step_alone(case)
    found = run_ranks(size, steps_on, cases)
    for number, case in enumerate(cases):
        expected = wanted[case.model]
        steps = [of_rank[number] for of_rank in found]
        assert sum(step.loss for step in steps) == pytest_approx(expected.loss), case
        names = set().union(*(step.gradients for step in steps))
        assert names == expected.gradients.keys(), case
        for step in steps:
            assert step.norm == pytest_approx(expected.norm), case
            for name, gradient in step.gradients.items():
                off = np.abs(gradient - expected.gradients[name]).max()
                assert off < TOLERANCE, f"{case}: gradients of {name} differ by {off:.1e}"


def pytest_approx(value: float) -> Any:
    import pytest

    return pytest.approx(value, abs=TOLERANCE)


def step_alone(case: Case) -> Step:
    model = PackedLM(make_model(case), cpu_flash_attention, chunked_cross_entropy)
    loss, _, _ = accumulate_gradients(model, schedule(case)[0], reader(case), CPU.device)
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    assert all(np.abs(gradient).max() > 1e-6 for gradient in gradients.values()), "a gradient of 0 proves nothing"
    norm = clip(list(model.parameters()), float("inf"), copies=())
    return Step(loss.item(), norm.item(), gradients)


def steps_on(ranks: Ranks, cases: Sequence[Case]) -> list[Step]:
    return [step_on(ranks, case) for case in cases]


def step_on(ranks: Ranks, case: Case) -> Step:
    """Loss of this rank, norm, and whole gradients of the parameters of this rank."""
    try:
        plan = ParallelPlan.of(ranks.size, **case.degrees)
        mesh = plan.mesh("cpu")
        model, read = place(case, plan, mesh), reader(case)
        if plan.cp > 1:
            share_batch = share_rows(planner(case, plan), mesh, BUILTIN_BACKENDS[0], CPU)
            if isinstance(model, PipelineLM):
                model.share = share_batch
            else:
                read = lambda rows, whole=read: share_batch(whole(rows))  # type: ignore[misc]  # noqa: E731
        loss, _, _ = accumulate_gradients(model, schedule(case)[0], read, CPU.device, plan.row_share(ranks.rank))
        gradients = {name: whole(p.grad).numpy() for name, p in model.named_parameters() if p.grad is not None}
        copies = model.copies if isinstance(model, PipelineLM) else ()
        norm = clip(list(model.parameters()), float("inf"), copies=copies)
    except Exception as error:
        error.add_note(f"in the case {case}")
        raise
    return Step(loss.item(), norm.item(), gradients)


def planner(case: Case, plan: ParallelPlan) -> Planner:
    options = ContextOptions(**case.context)
    settings = context_settings(options, plan)
    assert settings is not None
    spec = ModelSpec("made", make_config(case), None, True)
    return make_planner(settings, options, spec, plan, CPU, BUILTIN_BACKENDS[0], 8)


def place(case: Case, plan: ParallelPlan, mesh: Any) -> Any:
    model = make_model(case)
    recompute(model, case.recompute)  # type: ignore[arg-type]
    batches = -(-case.rows // case.micro // plan.dp)
    return assemble(model, cpu_flash_attention, plan, cut(case, plan), batches, mesh, torch.float64)


def cut(case: Case, plan: ParallelPlan) -> PipelineCut | None:
    if plan.pp == 1:
        return None
    config = make_config(case)
    return cut_pipeline(config, plan.pp, costs_of_layers(config), **case.pipeline)


def make_config(case: Case) -> Any:
    from transformers import AutoConfig

    padding = int(make_rows(LENGTHS[:1])[0].input_ids[0])  # a token of the rows: it is looked up, without a gradient
    settings = {**TINY, "num_hidden_layers": 4, "tie_word_embeddings": case.tied, "pad_token_id": padding}
    return AutoConfig.for_model(case.family, **{**settings, **EXTRAS.get(case.family, {}), **case.settings})


def make_model(case: Case) -> Any:
    """With random weights that hide nothing: biases not 0, norms not 1."""
    model = build_model(ModelSpec("made", make_config(case), None, True), dtype=torch.float64, backend=CPU)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.__class__ = exact(type(module), _norm)
        elif type(module).__name__.endswith("TopKRouter"):
            module.__class__ = exact(type(module), _route)
    return model


def schedule(case: Case) -> RowSchedule:
    alone = [collate([row], MaskMode.BLOCK_CAUSAL, reduction=case.reduction) for row in rows_of(case)]  # type: ignore[arg-type]
    targets, units = (np.array([getattr(batch, name) for batch in alone]) for name in ("num_targets", "loss_units"))
    size = -(-case.rows // case.micro) * case.micro
    return RowSchedule(targets, global_batch_size=size, micro_batch_size=case.micro, seed=0, epochs=1, loss_units=units)


def reader(case: Case) -> BatchReader:
    return BatchReader(rows_of(case), MaskMode.BLOCK_CAUSAL, reduction=case.reduction)  # type: ignore[arg-type]


def rows_of(case: Case) -> list[PackedSequence]:
    return make_rows((LENGTHS * 3)[: case.rows])


def exact(kind: type[torch.nn.Module], forward: Any) -> Any:
    """The same module, computing in the dtype of its input; of the same class to whoever looks for it."""
    return type(kind.__name__, (kind,), {"forward": forward})


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def _route(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), self.weight)
    scores, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
    if getattr(self, "norm_topk_prob", True):
        scores = scores / scores.sum(-1, keepdim=True)
    return logits, scores, chosen
