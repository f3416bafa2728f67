"""The interleaving of q, k and v by numbers, not by its own inverse."""

from __future__ import annotations

import pytest
import torch

from seqpack.convert.dims import ModelDims
from seqpack.convert.families import Join
from seqpack.convert.mapping import TensorSpec, check_parameters, join, split
from seqpack.convert.verify import locate
from seqpack.core.errors import CheckpointError

# 4 heads in 2 groups, heads of size 2: q has 8 rows, k and v have 4
DIMS = ModelDims(
    vocab_size=11, hidden_size=3, ffn_hidden_size=5, num_layers=1, num_heads=4, num_groups=2, head_dim=2, tied=False
)
Q = torch.arange(0, 8)
K = torch.arange(100, 104)
V = torch.arange(200, 204)
BY_HAND = [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]


def test_qkv_is_interleaved_per_group() -> None:
    assert join([Q, K, V], Join.QKV, DIMS).tolist() == BY_HAND


def test_qkv_weight_is_interleaved_like_its_bias() -> None:
    columns = torch.tensor([[1, 10, 100]])
    joined = join([part[:, None] * columns for part in (Q, K, V)], Join.QKV, DIMS)
    assert torch.equal(joined, torch.tensor(BY_HAND)[:, None] * columns)


@pytest.mark.parametrize(("index", "part"), [(0, Q), (1, K), (2, V)])
def test_qkv_is_taken_apart(index: int, part: torch.Tensor) -> None:
    assert split(torch.tensor(BY_HAND), Join.QKV, index, DIMS).tolist() == part.tolist()


@pytest.mark.parametrize(("name", "part"), [("q_proj", Q), ("k_proj", K), ("v_proj", V)])
def test_verification_finds_the_rows_by_hand(name: str, part: torch.Tensor) -> None:
    home, rows = locate(f"model.layers.0.self_attn.{name}.bias", DIMS)
    assert home == "decoder.layers.0.self_attention.linear_qkv.bias"
    assert torch.tensor(BY_HAND)[rows].tolist() == part.tolist()


def test_gate_lies_above_up() -> None:
    gate, up = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])
    stacked = join([gate, up], Join.STACK, DIMS)
    assert stacked.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert split(stacked, Join.STACK, 0, DIMS).tolist() == gate.tolist()
    assert split(stacked, Join.STACK, 1, DIMS).tolist() == up.tolist()


def test_names_missing_and_left_over_are_listed() -> None:
    spec = TensorSpec((2,), torch.float32)
    with pytest.raises(CheckpointError, match=r"misses a, b and has x") as caught:
        check_parameters({"a": (2,), "b": (2,), "c": (2,)}, {"c": spec, "x": spec}, where="the model")
    assert caught.value.code == "SP403"


def test_many_names_are_cut_but_counted() -> None:
    with pytest.raises(CheckpointError, match=r"misses p0, .*, p7 and 12 more"):
        check_parameters({f"p{i}": (1,) for i in range(20)}, {}, where="the model")


def test_a_wrong_shape_is_named_with_both_shapes() -> None:
    with pytest.raises(CheckpointError, match=r"a is \[3\] instead of \[2\]") as caught:
        check_parameters({"a": (2,)}, {"a": TensorSpec((3,), torch.float32)}, where="the model")
    assert caught.value.code == "SP404"
