"""The training loop: steps of micro-batches, each step divided by its own number of trained tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from seqpack.core.errors import ConfigError
from seqpack.runtime.parallel import RowShare
from seqpack.runtime.ranks import Ranks
from seqpack.train.gradients import add_up_shared
from seqpack.train.metrics import StepMetrics
from seqpack.train.pipeline import PipelineLM
from seqpack.train.stopping import RunStopped, StopRequest
from seqpack.train.summary import TrainResult

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from seqpack.hooks.specs import MetricSink
    from seqpack.models.packed import PackedLM
    from seqpack.runtime.batch import Batch
    from seqpack.runtime.device import DeviceBackend
    from seqpack.train.loader import RowSchedule, Step
    from seqpack.train.optim import Optimizer

    ReadBatch = Callable[[NDArray[np.int64]], Batch]

LOSS_WINDOW = 5
"""Steps that the first and the last loss of a run are means over."""
COUNTED = ("num_tokens", "num_padding", "num_targets", "loss_units")
"""What ranks add up of their batches."""
ROWS_NAMED = 8
"""Rows of a step that an error names."""


def _row_number(row: int) -> str:
    return f"row {row}"


def _no_flops(batch: Batch) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Saving:
    """``save(step)`` is called every ``interval`` steps, after the last step, and when the run is asked to stop.

    ``finish()`` returns when what was saved is on disk; the run does not end before.
    """

    save: Callable[[int], Path]
    finish: Callable[[], None]
    interval: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All steps of ``schedule``, held-out rows, every ``interval`` steps and after the last."""

    schedule: Sequence[Step]
    interval: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run begins: steps done before it, with their metrics."""

    first_step: int = 0
    history: Sequence[StepMetrics] = field(default=())


@dataclass(frozen=True, slots=True)
class Trainer:
    """What takes a step: the model, its optimizer, the rows, and the rate of step 0, 1, ...

    ``share`` is what this one of ``ranks`` reads of a step. ``describe`` says where a row comes from. Dropout and
    whatever else is random in a step depends on ``seed``, the step and the rank, so that a run that goes on from a
    checkpoint draws the same.
    """

    model: PackedLM | PipelineLM
    schedule: RowSchedule
    read_batch: ReadBatch
    optimizer: Optimizer
    rate: Callable[[int], float]
    backend: DeviceBackend
    ranks: Ranks = field(default_factory=Ranks)
    share: RowShare = field(default_factory=RowShare)
    seed: int = 0
    describe: Callable[[int], str] = _row_number
    flops: Callable[[Batch], float] = _no_flops
    peak_flops: float = 0.0


def train(
    trainer: Trainer,
    *,
    sinks: Sequence[MetricSink] = (),
    saving: Saving | None = None,
    evaluation: Evaluation | None = None,
    progress: Progress = Progress(),
) -> TrainResult:
    """Run all steps of the schedule that are not done yet.

    Raises ``ConfigError`` SP204 at the first loss or gradient that is not finite; the model is then as it was before
    that step. With ``saving``, Ctrl-C and SIGTERM save and raise ``RunStopped``.
    """
    history = list(progress.history)
    num_steps = len(trainer.schedule)
    with StopRequest() if saving else _Never() as stop:
        for index in range(progress.first_step, num_steps):
            metrics, signum = _run_step(trainer, index, stop.signum)
            history.append(metrics)
            values = metrics.as_dict()
            if evaluation is not None and (metrics.step % evaluation.interval == 0 or metrics.step == num_steps):
                values["eval_loss"] = evaluate(trainer, evaluation.schedule)
            for sink in sinks:
                sink.log(metrics.step, values)
            if saving is not None:
                _save(saving, metrics.step, num_steps, signum)
    return _result(history, num_steps, trainer.backend)


def accumulate_gradients(
    model: PackedLM | PipelineLM,
    step: Step,
    read_batch: ReadBatch,
    device: torch.device,
    share: RowShare = RowShare(),  # noqa: B008 - frozen
) -> tuple[torch.Tensor, list[Batch], float]:
    """Add the gradients of a step's share; returns its part of the mean loss, its batches and the wait for them.

    Of the only share that is the mean over tokens, samples or packs; the parts of all shares add up to it.
    What the loss divides by is known before the first backward, from the index of the data set: every micro-batch's
    *sum* is divided by it. A mean per micro-batch would weigh tokens by the company they keep.
    """
    total = torch.zeros((), dtype=torch.float64)
    batches = []
    waited = 0.0
    mine = step.of_rank(share.rank, share.size)
    for number, (rows, counts) in enumerate(mine, start=1):
        asked = time.perf_counter()
        batch = read_batch(rows) if counts else read_batch(rows).without_labels()
        waited += time.perf_counter() - asked
        batches.append(batch)
        if isinstance(model, PipelineLM):
            continue
        if isinstance(model, FSDPModule):  # gradients are exchanged once a step
            model.set_requires_gradient_sync(number == len(mine))
        loss = model(batch.to(device)) / step.loss_units
        loss.backward()
        total += loss.detach().to(total)
    if isinstance(model, PipelineLM):
        total, batches = model.accumulate(batches, step.loss_units)
    add_up_shared(model.parameters())
    return total, batches, waited


@torch.no_grad()
def evaluate(trainer: Trainer, schedule: Sequence[Step]) -> float:
    """Mean loss over all rows of ``schedule``; weights, gradients and random numbers stay as they are."""
    model, ranks, share, device = trainer.model, trainer.ranks, trainer.share, trainer.backend.device
    total, units = 0.0, 0
    model.eval()
    for step in schedule:
        batches = []
        for rows, counts in step.of_rank(share.rank, share.size):
            batch = trainer.read_batch(rows) if counts else trainer.read_batch(rows).without_labels()
            batches.append(batch)
            units += batch.loss_units if share.counts else 0
            if not isinstance(model, PipelineLM):
                total += model(batch.to(device)).item()
        if isinstance(model, PipelineLM):
            total += model.evaluate(batches).item()
    model.train()
    total, all_units = ranks.sum([total, units], device)
    return total / all_units


class _Never(StopRequest):
    """Signals do what they do elsewhere."""

    def __enter__(self) -> _Never:
        return self


def _save(saving: Saving, step: int, num_steps: int, signum: int) -> None:
    due = saving.interval is not None and (step % saving.interval == 0 or step == num_steps)
    if not due and not signum:
        return
    path = saving.save(step)
    if step == num_steps or signum:
        saving.finish()
    if signum and step < num_steps:
        raise RunStopped(signum, step, path)


def _run_step(trainer: Trainer, index: int, signum: int) -> tuple[StepMetrics, int]:
    """Take one step; returns its metrics and the signal any rank has noted, or 0."""
    started = time.perf_counter()
    backend, ranks, share = trainer.backend, trainer.ranks, trainer.share
    step, lr = trainer.schedule[index], trainer.rate(index)
    backend.seed(step_seed(trainer.seed, index, ranks.rank))
    part, batches, waited = accumulate_gradients(trainer.model, step, trainer.read_batch, backend.device, share)
    norm = trainer.optimizer.gradient_norm().item()
    reported = batches if share.counts else []
    counted = [
        part.item(),
        *(sum(getattr(batch, name) for batch in reported) for name in COUNTED),
        signum != 0,
        signum == SIGTERM,
        work := sum(trainer.flops(batch) for batch in reported if batch.num_tokens),
    ]
    loss, num_tokens, num_padding, num_targets, loss_units, stopped, terminated, flops = ranks.sum(
        counted, backend.device
    )
    assert (num_targets, loss_units) == (step.num_targets, step.loss_units), "the index counts other targets"
    _check_finite(trainer, step, loss, norm, lr)
    trainer.optimizer.step(lr)
    backend.synchronize()
    metrics = StepMetrics(
        step=index + 1,
        loss=loss,
        lr=lr,
        grad_norm=norm,
        num_rows=sum(len(rows) for rows in step.micro_batches),
        num_tokens=int(num_tokens),
        num_targets=step.num_targets,
        num_padding=int(num_padding),
        seconds=time.perf_counter() - started,
        peak_memory=backend.peak_memory(),
        flops=flops,
        data_seconds=waited,
        rank_skew=ranks.max(work, backend.device) * share.size / flops if flops else 1.0,
        peak_flops=trainer.peak_flops,
    )
    return metrics, (SIGTERM if terminated else SIGINT) if stopped else 0


def step_seed(seed: int, step: int, rank: int) -> int:
    """What the random numbers of a step start from, below 2 ** 63."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _check_finite(trainer: Trainer, step: Step, loss: float, norm: float, lr: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    rows = [int(row) for rows in step.micro_batches for row in rows]
    named = ", ".join(trainer.describe(row) for row in rows[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED} more rows" if len(rows) > ROWS_NAMED else ""
    raise ConfigError(
        "SP204",
        f"step {step.index + 1}: the loss is {loss:g} and the norm of its gradients {norm:g}, at learning rate {lr:g}; "
        f"the step trained on {named}{more}",
        help="lower --lr, lengthen --lr-warmup-iters, set --clip-grad 1.0 or choose --dtype float32; "
        "no model was saved",
    )


def _result(history: Sequence[StepMetrics], num_steps: int, backend: DeviceBackend) -> TrainResult:
    window = min(LOSS_WINDOW, -(-len(history) // 2))
    return TrainResult(
        num_steps=num_steps,
        first_loss=_mean_loss(history[:window]),
        last_loss=_mean_loss(history[-window:]),
        num_tokens=sum(metrics.num_tokens for metrics in history),
        num_targets=sum(metrics.num_targets for metrics in history),
        num_padding=sum(metrics.num_padding for metrics in history),
        seconds=sum(metrics.seconds for metrics in history),
        peak_memory=backend.peak_memory(),
    )


def _mean_loss(history: Sequence[StepMetrics]) -> float:
    """Mean over all trained tokens of these steps."""
    targets = sum(metrics.num_targets for metrics in history)
    return sum(metrics.loss * metrics.num_targets for metrics in history) / targets if targets else math.nan
