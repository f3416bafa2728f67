"""The loss of a step and its gradients do not depend on how samples are laid out: alone, packed, or accumulated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.options.train import TrainDataOptions
from seqpack.runtime.batch import LossReduction, collate
from seqpack.train.data import open_data
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import accumulate_gradients

from .conftest import WriteDataset
from .test_loop import CPU, make_rows, tiny_model

PACKED = make_rows([[9, 4, 1], [14], [2, 5, 6], [3, 3]])
ALONE = [
    PackedSequence(row.input_ids[a:b], row.labels[a:b], np.array([0, b - a], np.int32), 0)
    for row in PACKED
    for a, b in pairwise(row.cu_seqlens.tolist())
]


def step_of(rows: list[PackedSequence], micro: int, reduction: LossReduction) -> tuple[float, int, list[torch.Tensor]]:
    """Loss, trained tokens and gradients of one step over all rows, in micro-batches of ``micro``."""
    alone = [collate([row], MaskMode.BLOCK_CAUSAL, reduction=reduction) for row in rows]
    targets, units = (np.array([getattr(b, name) for b in alone]) for name in ("num_targets", "loss_units"))
    batch = -(-len(rows) // micro) * micro
    schedule = RowSchedule(targets, global_batch_size=batch, micro_batch_size=micro, seed=0, epochs=1, loss_units=units)
    model = tiny_model(torch.float64)
    reader = BatchReader(rows, MaskMode.BLOCK_CAUSAL, reduction=reduction)
    loss, _, _ = accumulate_gradients(model, schedule[0], reader, CPU.device)
    return loss.item(), schedule[0].num_targets, [p.grad for p in model.parameters() if p.grad is not None]


def assert_same(one: tuple[float, int, list[torch.Tensor]], other: tuple[float, int, list[torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-12)
    assert one[1] == other[1]
    for ours, wanted in zip(one[2], other[2], strict=True):
        assert wanted.abs().max() > 0
        assert (ours - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("reduction", ["token", "sample"])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_one_per_row_packed_and_accumulated_are_the_same(reduction: LossReduction, micro: int) -> None:
    wanted = step_of(ALONE, 3, reduction)
    assert_same(step_of(PACKED, micro, reduction), wanted)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_packs_weigh_the_same_however_they_are_accumulated(micro: int) -> None:
    wanted = step_of(PACKED, 4, "pack")
    assert_same(step_of(PACKED, micro, "pack"), wanted)
    assert abs(wanted[0] - step_of(PACKED, 4, "token")[0]) > 1e-4


@pytest.mark.parametrize("reduction", ["token", "sample", "pack"])
def test_the_definition(reduction: LossReduction) -> None:
    """From the logits of every sample alone: means inside samples or packs, then over them."""
    model = tiny_model(torch.float64)
    samples: list[list[torch.Tensor]] = []
    for row in PACKED:
        losses = []
        for a, b in pairwise(row.cu_seqlens.tolist()):
            sample = PackedSequence(row.input_ids[a:b], row.labels[a:b], np.array([0, b - a], np.int32), 0)
            batch = collate([sample], MaskMode.BLOCK_CAUSAL)
            with torch.no_grad():
                loss = cross_entropy(model.logits(batch), batch.labels[0], ignore_index=IGNORE_INDEX, reduction="none")
            losses.append(loss[batch.labels[0] != IGNORE_INDEX])
        samples.append([loss for loss in losses if len(loss)])
    flat = [loss for pack in samples for loss in pack]
    wanted = {
        "token": torch.cat(flat).mean(),
        "sample": torch.stack([loss.mean() for loss in flat]).mean(),
        "pack": torch.stack([torch.cat(pack).mean() for pack in samples]).mean(),
    }
    assert step_of(PACKED, 2, reduction)[0] == pytest.approx(wanted[reduction].item(), abs=1e-12)


def test_units_of_a_data_set_are_those_of_its_batches(write_dataset: WriteDataset) -> None:
    dataset = open_data(TrainDataOptions(data_path=[str(write_dataset([[3, 1, 4], [1], [5, 2]], seq_length=9))]))
    for reduction in ("token", "sample", "pack"):
        batches = [
            collate([dataset[row]], MaskMode.BLOCK_CAUSAL, reduction=reduction)  # type: ignore[arg-type]
            for row in range(len(dataset))
        ]
        assert dataset.loss_units(reduction).tolist() == [batch.loss_units for batch in batches]
