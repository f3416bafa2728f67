"""The router loss: that of transformers, blind to padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.models.router import load_balancing_loss
from seqpack.runtime.batch import collate

from .conftest import MakeRow, SaveModel
from .test_packed import gradients, load


def test_it_is_the_loss_of_transformers() -> None:
    logits = [torch.randn(12, 5, generator=torch.Generator().manual_seed(layer)) for layer in range(3)]
    is_real = torch.tensor([True] * 5 + [False] * 2 + [True] * 4 + [False])
    wanted = load_balancing_loss_func(tuple(logits), 5, 2, is_real[None].long())
    assert load_balancing_loss(logits, 2, is_real).item() == pytest.approx(float(wanted), rel=1e-6)


def test_even_routing_by_hand() -> None:
    logits = torch.eye(4) * 100
    assert load_balancing_loss([logits], 1, torch.ones(4, dtype=torch.bool)).item() == pytest.approx(1)
    assert load_balancing_loss([logits[[0, 0, 0]]], 1, torch.ones(3, dtype=torch.bool)).item() == pytest.approx(4)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_padding_changes_nothing(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    directory = save_model(family, output_router_logits=True, router_aux_loss_coef=0.5)
    found = []
    for padding in ((0, 0), (5, 9)):
        model = load(directory)
        rows = [make_row([9, 4], num_padding=padding[0], seed=1), make_row([7], num_padding=padding[1], seed=2)]
        loss = model(collate(rows, MaskMode.BLOCK_CAUSAL))
        loss.backward()
        found.append((loss, gradients(model)))
    (plain, wanted), (padded, ours) = found
    assert padded.item() == pytest.approx(plain.item(), rel=1e-9)
    for name, gradient in ours.items():
        assert (gradient - wanted[name]).abs().max() < 1e-7, name  # the router loss is computed in float32


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_padding_that_aligns_samples_changes_nothing(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    directory = save_model(family, output_router_logits=True, router_aux_loss_coef=0.5)
    row = make_row([9, 4, 8], seed=1)
    spread = np.r_[0:9, 16:20, 24:32]  # as --align 8 places them
    input_ids, labels = np.zeros(32, np.int32), np.full(32, IGNORE_INDEX, np.int32)
    input_ids[spread], labels[spread] = row.input_ids, row.labels
    aligned = PackedSequence(input_ids, labels, np.array([0, 16, 24, 32], np.int32), 0, np.array([9, 4, 8], np.int32))
    batch = collate([aligned], MaskMode.BLOCK_CAUSAL)
    assert (batch.num_tokens, batch.num_padding, batch.is_real[0].nonzero().flatten().tolist()) == (21, 11, [*spread])
    losses = [load(directory)(collate([each], MaskMode.BLOCK_CAUSAL)).item() for each in (row, aligned)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


def test_it_is_part_of_the_loss_only_if_the_configuration_asks(save_model: SaveModel, make_row: MakeRow) -> None:
    batch = collate([make_row([9, 4])], MaskMode.BLOCK_CAUSAL)
    losses = []
    for coefficient, asked in ((0.5, False), (0.0, True), (0.5, True)):
        directory = save_model("mixtral", output_router_logits=asked, router_aux_loss_coef=coefficient)
        losses.append(load(directory)(batch).item())
    assert losses[0] == pytest.approx(losses[1])
    router = (losses[2] - losses[0]) / (0.5 * batch.num_targets)
    assert 2 <= router < 4  # two experts a token: 2 if evenly, at most 4 times that
