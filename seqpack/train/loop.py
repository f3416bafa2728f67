"""The training loop: steps of micro-batches, each step divided by its own number of trained tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.core.errors import ConfigError
from seqpack.train.metrics import StepMetrics
from seqpack.train.summary import TrainResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.models.packed import PackedLM
    from seqpack.runtime.batch import Batch
    from seqpack.runtime.device import DeviceBackend
    from seqpack.train.loader import RowSchedule, Step
    from seqpack.train.metrics import MetricSink
    from seqpack.train.optim import Optimizer

    ReadBatch = Callable[[NDArray[np.int64]], Batch]

LOSS_WINDOW = 5
"""Steps that the first and the last loss of a run are means over."""


def train(
    model: PackedLM,
    schedule: RowSchedule,
    read_batch: ReadBatch,
    optimizer: Optimizer,
    rate: Callable[[int], float],
    *,
    backend: DeviceBackend,
    sinks: Sequence[MetricSink] = (),
) -> TrainResult:
    """Run all steps of ``schedule``; ``rate(step)`` is the learning rate of step 0, 1, ...

    Raises ``ConfigError`` SP204 at the first loss or gradient that is not finite; the model is then as it was before
    that step.
    """
    started = time.perf_counter()
    history = []
    for step in schedule:
        metrics = _run_step(model, step, read_batch, optimizer, rate(step.index), backend)
        history.append(metrics)
        for sink in sinks:
            sink.log(metrics.step, metrics.as_dict())
    window = min(LOSS_WINDOW, -(-len(history) // 2))
    return TrainResult(
        num_steps=len(history),
        first_loss=_mean_loss(history[:window]),
        last_loss=_mean_loss(history[-window:]),
        num_tokens=sum(metrics.num_tokens for metrics in history),
        num_targets=sum(metrics.num_targets for metrics in history),
        num_padding=sum(metrics.num_padding for metrics in history),
        seconds=time.perf_counter() - started,
        peak_memory=backend.peak_memory(),
    )


def accumulate_gradients(
    model: PackedLM, step: Step, read_batch: ReadBatch, device: torch.device
) -> tuple[torch.Tensor, list[Batch]]:
    """Add the gradients of a whole step; returns its mean loss over tokens, samples or packs, and its batches.

    What the loss divides by is known before the first backward, from the index of the data set: every micro-batch's
    *sum* is divided by it. A mean per micro-batch would weigh tokens by the company they keep.
    """
    total = torch.zeros((), dtype=torch.float64)
    batches = []
    for rows in step.micro_batches:
        batch = read_batch(rows)
        loss = model(batch.to(device)) / step.loss_units
        loss.backward()
        total += loss.detach().to(total)
        batches.append(batch)
    assert sum(batch.num_targets for batch in batches) == step.num_targets, "the index counts other targets"
    assert sum(batch.loss_units for batch in batches) == step.loss_units, "the index counts other samples"
    return total, batches


def _run_step(
    model: PackedLM, step: Step, read_batch: ReadBatch, optimizer: Optimizer, lr: float, backend: DeviceBackend
) -> StepMetrics:
    started = time.perf_counter()
    loss, batches = accumulate_gradients(model, step, read_batch, backend.device)
    norm = optimizer.gradient_norm()
    number = step.index + 1
    _check_finite(number, loss.item(), norm.item(), lr)
    optimizer.step(lr)
    backend.synchronize()
    return StepMetrics(
        step=number,
        loss=loss.item(),
        lr=lr,
        grad_norm=norm.item(),
        num_rows=sum(len(rows) for rows in step.micro_batches),
        num_tokens=sum(batch.num_tokens for batch in batches),
        num_targets=step.num_targets,
        num_padding=sum(batch.num_padding for batch in batches),
        seconds=time.perf_counter() - started,
        peak_memory=backend.peak_memory(),
    )


def _check_finite(step: int, loss: float, norm: float, lr: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise ConfigError(
        "SP204",
        f"step {step}: the loss is {loss:g} and the norm of its gradients {norm:g}, at learning rate {lr:g}",
        help="lower --lr, lengthen --lr-warmup-iters, set --clip-grad 1.0 or choose --dtype float32; "
        "no model was saved",
    )


def _mean_loss(history: Sequence[StepMetrics]) -> float:
    """Mean over all trained tokens of these steps."""
    targets = sum(metrics.num_targets for metrics in history)
    return sum(metrics.loss * metrics.num_targets for metrics in history) / targets
