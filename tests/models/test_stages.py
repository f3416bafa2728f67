"""Cutting a model into stages, and what a stage in the middle sees."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.errors import ConfigError
from seqpack.core.segments import Segments
from seqpack.core.types import MaskMode
from seqpack.models.stages import PipelineCut, Stage, cut_pipeline
from seqpack.runtime.batch import collate
from seqpack.train.loss import chunked_cross_entropy

from .conftest import TINY, MakeRow, SaveModel
from .test_packed import load

CONFIG = AutoConfig.for_model("qwen2", **TINY)


def layers(cut: PipelineCut) -> list[int]:
    return [len(part) for part in cut.layers]


@given(
    costs=st.lists(st.integers(1, 9), min_size=4, max_size=9),
    head=st.integers(0, 20),
    size=st.integers(2, 4),
)
def test_the_dearest_stage_is_as_cheap_as_can_be(costs: list[int], head: int, size: int) -> None:
    cut = cut_pipeline(CONFIG, size, [*costs, head])
    assert [layer for part in cut.layers for layer in part] == list(range(len(costs)))
    assert min(layers(cut)) >= 1

    def dearest(ends: list[int]) -> int:
        edges = [0, *ends, len(costs)]
        sums = [sum(costs[a:b]) for a, b in pairwise(edges)]
        return max([*sums[:-1], sums[-1] + head])

    def all_ends(count: int, start: int) -> list[list[int]]:
        if count == 0:
            return [[]]
        return [[e, *rest] for e in range(start, len(costs) - count + 1) for rest in all_ends(count - 1, e + 1)]

    assert dearest([part.stop for part in cut.layers[:-1]]) == min(map(dearest, all_ends(size - 1, 1)))


def test_a_list_says_otherwise_and_stages_are_dealt_out() -> None:
    costs = [1.0] * 12 + [3.0]
    assert layers(cut_pipeline(CONFIG, 3, costs)) == [5, 5, 2]
    assert layers(cut_pipeline(CONFIG, 3, costs, layer_list="2,4,6")) == [2, 4, 6]
    interleaved = cut_pipeline(CONFIG, 3, costs, layers_per_stage=2)
    assert (interleaved.schedule, interleaved.of_rank(1)) == ("Interleaved1F1B", [1, 4])
    v_shaped = cut_pipeline(CONFIG, 3, costs, schedule="zero-bubble")
    assert (v_shaped.schedule, v_shaped.of_rank(0), v_shaped.of_rank(2)) == ("ZBVZeroBubble", [0, 5], [2, 3])
    more = cut_pipeline(CONFIG, 2, costs, schedule="zero-bubble", layers_per_stage=2)
    assert (more.schedule, more.of_rank(1)) == ("InterleavedZeroBubble", [1, 3, 5])


def test_a_family_that_is_not_known() -> None:
    with pytest.raises(ConfigError, match="'gemma' are not known") as raised:
        cut_pipeline(AutoConfig.for_model("gemma"), 2, [1.0] * 19)
    assert raised.value.code == "SP610"
    assert "seqpack/models/roles.py" in raised.value.help


def test_a_stage_in_the_middle_keeps_samples_apart_to_the_last_bit(save_model: SaveModel, make_row: MakeRow) -> None:
    hf_model = load(save_model("qwen3", num_hidden_layers=4)).model
    stage = Stage(hf_model, range(1, 3), first=False, last=False).with_loss(
        cpu_flash_attention, chunked_cross_entropy, 1
    )
    batch = collate([make_row([9, 4, 7], num_padding=3)], MaskMode.BLOCK_CAUSAL)
    whole = replace(batch, segments=Segments(np.array([0, 23], np.int32)))
    stage.batches = {0: batch, 1: whole}
    hidden = torch.randn(1, 23, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = hidden.clone()
    other[:, 2] += 1.0  # of the first sample
    with torch.no_grad():
        before, after, leaks = (
            stage(x, number=torch.tensor([number])) for x, number in ((hidden, 0), (other, 0), (other, 1))
        )
        leaked_from = stage(hidden, number=torch.tensor([1]))
    assert torch.equal(before[:, 9:], after[:, 9:])
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 3:9], after[:, 3:9])
    assert not torch.equal(leaked_from[:, 9:], leaks[:, 9:])  # without boundaries it would be seen
