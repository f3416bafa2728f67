"""Verification must fail when it should."""

from __future__ import annotations

import pytest
import torch

from seqpack.convert.dims import ModelDims
from seqpack.convert.verify import verify
from seqpack.core.errors import CheckpointError

from .conftest import InMemory

DIMS = ModelDims(
    vocab_size=4, hidden_size=2, ffn_hidden_size=3, num_layers=1, num_heads=1, num_groups=1, head_dim=2, tied=True
)
GATE, UP = torch.arange(6.0).reshape(3, 2), torch.arange(6.0, 12.0).reshape(3, 2)
HUGGINGFACE = {"model.layers.0.mlp.gate_proj.weight": GATE, "model.layers.0.mlp.up_proj.weight": UP}
FC1 = "decoder.layers.0.mlp.linear_fc1.weight"


def run(huggingface: dict[str, torch.Tensor], megatron: dict[str, torch.Tensor]) -> dict[str, str]:
    return verify(InMemory(**huggingface), InMemory(**megatron), DIMS, without=(), advance=lambda n: None)


def test_the_same_weights_pass() -> None:
    assert run(HUGGINGFACE, {FC1: torch.cat([GATE, UP])}).keys() == HUGGINGFACE.keys()


@pytest.mark.parametrize(
    ("fc1", "others", "message"),
    [
        (torch.cat([UP, GATE]), {}, "gate_proj"),
        (torch.cat([GATE, UP.flip(0)]), {}, "up_proj"),
        (torch.cat([GATE, UP]).double(), {}, "gate_proj"),
        (torch.cat([GATE, UP, UP]), {}, "6 of 9 rows"),
        (torch.cat([GATE, UP]), {"decoder.final_layernorm.weight": torch.ones(2)}, "0 of 2 rows"),
    ],
)
def test_what_differs_is_named(fc1: torch.Tensor, others: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        run(HUGGINGFACE, {FC1: fc1, **others})
    assert caught.value.code == "SP408"


def test_one_bit_is_enough() -> None:
    zeros = torch.zeros(3, 2)
    with pytest.raises(CheckpointError):
        run(
            {"model.layers.0.mlp.gate_proj.weight": zeros, "model.layers.0.mlp.up_proj.weight": UP},
            {FC1: torch.cat([-zeros, UP])},
        )
