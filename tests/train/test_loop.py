from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.errors import ConfigError
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.models.load import build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.runtime.device import select_device
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import Trainer, accumulate_gradients, train
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.optim import Optimizer
from seqpack.train.summary import TrainResult

from .conftest import VOCAB_SIZE

CPU = select_device("cpu")


class Recorder:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.losses.append(metrics["loss"])

    def close(self) -> None: ...


def make_rows(packs: Sequence[Sequence[int]]) -> list[PackedSequence]:
    rng = np.random.default_rng(0)
    rows = []
    for lengths in packs:
        input_ids = rng.integers(2, VOCAB_SIZE, sum(lengths)).astype(np.int32)
        labels = np.where(rng.random(len(input_ids)) < 0.3, IGNORE_INDEX, input_ids).astype(np.int32)
        rows.append(PackedSequence(input_ids, labels, np.cumsum([0, *lengths]).astype(np.int32), 0))
    return rows


ROWS = make_rows([[9, 4, 1], [14], [2, 5, 6], [3, 3], [20, 1], [8]])


def targets(rows: Sequence[PackedSequence]) -> np.ndarray:
    reader = BatchReader(rows, MaskMode.BLOCK_CAUSAL)
    return np.array([reader(np.array([row])).num_targets for row in range(len(rows))])


def tiny_model(dtype: torch.dtype = torch.float32) -> PackedLM:
    model = build_model(resolve_model("tiny:qwen2", vocab_size=VOCAB_SIZE), dtype=dtype, backend=CPU)
    return PackedLM(model, cpu_flash_attention, chunked_cross_entropy)


def schedule(batch: int, micro: int, **duration: float) -> RowSchedule:
    return RowSchedule(targets(ROWS), global_batch_size=batch, micro_batch_size=micro, seed=0, **duration)  # type: ignore[arg-type]


def run(steps: RowSchedule, recorder: Recorder, *, lr: float = 3e-3, dtype: torch.dtype = torch.float32) -> TrainResult:
    model = tiny_model(dtype)
    optimizer = Optimizer(model.named_parameters(), clip_grad=1.0)
    reader = BatchReader(ROWS, MaskMode.BLOCK_CAUSAL)
    return train(Trainer(model, steps, reader, optimizer, lambda step: lr, CPU), sinks=[recorder])


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_accumulation_does_not_change_the_gradients(micro: int) -> None:
    reader = BatchReader(ROWS, MaskMode.BLOCK_CAUSAL)
    whole, parts = tiny_model(torch.float64), tiny_model(torch.float64)
    expected, _, _ = accumulate_gradients(whole, schedule(6, 6, epochs=1)[0], reader, CPU.device)
    total, batches, _ = accumulate_gradients(parts, schedule(6, micro, epochs=1)[0], reader, CPU.device)
    assert len(batches) == 6 // micro
    assert total.item() == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() < 1e-12


@pytest.mark.parametrize(("batch", "micro", "duration"), [(4, 2, {"epochs": 1.5}), (4, 1, {"train_iters": 2})])
def test_the_steps_announced_are_the_steps_taken(batch: int, micro: int, duration: dict[str, float]) -> None:
    steps, recorder = schedule(batch, micro, **duration), Recorder()
    result = run(steps, recorder)
    assert recorder.steps == list(range(1, len(steps) + 1))
    assert result.num_steps == len(steps)
    assert result.num_targets == sum(step.num_targets for step in steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tiny_model_learns_a_tiny_set_by_heart(dtype: torch.dtype) -> None:
    recorder = Recorder()
    result = run(schedule(6, 3, train_iters=40), recorder, dtype=dtype)
    assert recorder.losses[0] == pytest.approx(math.log(64), rel=0.1)  # knows nothing: 64 equally likely tokens
    assert result.last_loss < result.first_loss / 2


def test_a_run_can_be_repeated() -> None:
    first, second = Recorder(), Recorder()
    run(schedule(3, 1, epochs=2), first)
    run(schedule(3, 1, epochs=2), second)
    assert first.losses == second.losses


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    recorder = Recorder()
    with pytest.raises(ConfigError, match=r"step 2: the loss is nan") as raised:
        run(schedule(6, 6, train_iters=5), recorder, lr=1e38)
    assert raised.value.code == "SP204"
    assert recorder.steps == [1]
