"""Whole Megatron parameters and their shards, by numbers and not by their own inverse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from seqpack.convert.dims import ModelDims
from seqpack.convert.families import ATTENTION, EMBEDDING, LLAMA, MIXTRAL, MLP, QKV_BIAS
from seqpack.convert.mcore import Experts, Form, Model, layer_tensors, rank_tensors, whole_parameter
from seqpack.convert.split import Rank, SplitRequest
from seqpack.convert.tensors import Piece, Tensor, matrix

# 4 heads in 2 groups, heads of size 2: q has 8 rows, k and v have 4
DIMS = ModelDims(
    vocab_size=11, hidden_size=3, ffn_hidden_size=4, num_layers=1, num_heads=4, num_groups=2, head_dim=2, tied=False
)
MOE = ModelDims(11, 3, 4, 1, 4, 2, 2, tied=False, num_experts=2, expert_ffn_size=2)
MODEL = Model(LLAMA, DIMS)
FIRST = {"q_proj": 0, "k_proj": 100, "v_proj": 200, "gate_proj": 0, "up_proj": 100, "down_proj": 0, "o_proj": 0}
QKV_BY_HAND = [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]


def laid_out(shape: Sequence[int], pieces: Sequence[Piece]) -> list[list[int]]:
    """Each element as 1000 * column + row of its Hugging Face tensor, with hundreds that tell which tensor."""
    grid = np.full(matrix(shape), -1)
    for piece in pieces:
        first = next((value for name, value in FIRST.items() if name in piece.name), 0)
        rows = np.arange(piece.row, piece.row + piece.rows)[:, None] + first
        values = rows + 1000 * np.arange(piece.column, piece.column + piece.columns)
        place = (
            slice(piece.at_row, piece.at_row + piece.height),
            slice(piece.at_column, piece.at_column + piece.width),
        )
        assert (grid[place] == -1).all()
        grid[place] = values.T if piece.transposed else values
    return grid.tolist()


def first_column(shard: tuple[Sequence[int], Sequence[Piece]]) -> list[int]:
    return [row[0] for row in laid_out(*shard)]


def test_qkv_is_interleaved_per_group() -> None:
    assert first_column(whole_parameter(MODEL, ATTENTION[1], 0, None).shard(0, 1)) == QKV_BY_HAND
    assert first_column(whole_parameter(MODEL, QKV_BIAS, 0, None).shard(0, 1)) == QKV_BY_HAND


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_have_equal_shares_of_the_rows_of_qkv(tp: int) -> None:
    share = 16 // tp
    for rank in range(tp):
        shard = whole_parameter(MODEL, ATTENTION[1], 0, None).shard(rank, tp)
        assert shard[0] == (share, 3)
        assert first_column(shard) == QKV_BY_HAND[rank * share : (rank + 1) * share]


def test_each_rank_has_its_gate_above_its_up() -> None:
    parameter = whole_parameter(MODEL, MLP[1], 0, None)
    assert first_column(parameter.shard(0, 1)) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert first_column(parameter.shard(0, 2)) == [0, 1, 100, 101]
    assert first_column(parameter.shard(1, 2)) == [2, 3, 102, 103]


def test_projections_are_cut_in_columns() -> None:
    shape, pieces = whole_parameter(MODEL, MLP[2], 0, None).shard(1, 2)
    assert (shape, laid_out(shape, pieces)) == ((3, 2), [[2000, 3000], [2001, 3001], [2002, 3002]])


def test_norms_are_whole_on_every_rank() -> None:
    parameter = whole_parameter(MODEL, MLP[0], 0, None)
    assert parameter.shard(0, 2) == parameter.shard(1, 2) == ((3,), (Piece(*NORM),))


NORM = ("model.layers.0.post_attention_layernorm.weight", 0, 0, 3, 1, 0, 0)


def test_a_vocabulary_is_filled_up_with_copies_of_its_last_row() -> None:
    parameter = whole_parameter(MODEL, EMBEDDING, None, None, vocab_rows=14)
    assert first_column(parameter.shard(0, 2)) == [0, 1, 2, 3, 4, 5, 6]
    shape, pieces = parameter.shard(1, 2)
    assert first_column((shape, pieces)) == [7, 8, 9, 10, 10, 10, 10]
    assert [piece.is_padding for piece in pieces] == [False, True, True, True]


def tensors_of(form: Form, model: Model, rank: Rank) -> dict[str, Tensor]:
    return {tensor.key.name: tensor for tensor in layer_tensors(model, form, rank, 0, "")}


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        (Experts.SEQUENTIAL, ["local_experts.0.linear_fc1.weight", "local_experts.0.linear_fc2.weight"]),
        (Experts.GROUPED, ["linear_fc1.weight0", "linear_fc2.weight0"]),
        (Experts.JOINED, ["weight1", "weight2"]),
    ],
)
def test_experts_are_called_as_their_kind_wants(experts: Experts, names: list[str]) -> None:
    form = Form(SplitRequest(ep=2).of(MOE), 11, experts=experts)
    found = tensors_of(form, Model(MIXTRAL, MOE), Rank(0, 0, 1))
    assert [name.removeprefix("mlp.experts.") for name in found if "experts" in name] == names
    assert {piece.name for name in names for piece in found[f"mlp.experts.{name}"].pieces} == {
        f"model.layers.0.block_sparse_moe.experts.1.{w}.weight" for w in ("w1", "w2", "w3")
    }


def test_joined_experts_are_transposed_one_below_the_other() -> None:
    form = Form(SplitRequest().of(MOE), 11, experts=Experts.JOINED)
    weight1 = tensors_of(form, Model(MIXTRAL, MOE), Rank(0, 0, 0))["mlp.experts.weight1"]
    # 2 experts, hidden 3, gate and up of 2 each: memory [expert, hidden, gate and up], shape [hidden, experts * 4]
    assert (weight1.shape, weight1.grid) == ((3, 8), (6, 4))
    names = [f"experts.{expert}.{w}" for expert in (0, 1) for w in ("w1", "w3")]
    assert [piece.name.partition("moe.")[2].removesuffix(".weight") for piece in weight1.pieces] == names
    assert [piece[5:8] for piece in weight1.pieces] == [(0, 0, True), (0, 2, True), (3, 0, True), (3, 2, True)]


def test_transformer_engine_has_other_names_for_norms_but_not_before_experts() -> None:
    dense = tensors_of(Form(SplitRequest().of(DIMS), 11, transformer_engine=True), MODEL, Rank(0, 0, 0))
    assert "self_attention.linear_qkv.layer_norm_weight" in dense
    assert "mlp.linear_fc1.layer_norm_weight" in dense
    assert not any("layernorm" in name for name in dense)
    moe = tensors_of(Form(SplitRequest().of(MOE), 11, transformer_engine=True), Model(MIXTRAL, MOE), Rank(0, 0, 0))
    assert "pre_mlp_layernorm.weight" in moe


@pytest.mark.parametrize(("pp", "tied", "heads"), [(1, True, 0), (2, True, 1), (1, False, 1), (2, False, 1)])
def test_where_a_head_is(pp: int, tied: bool, heads: int) -> None:
    dims = ModelDims(11, 3, 4, 2, 4, 2, 2, tied=tied)
    form = Form(SplitRequest(pp=pp).of(dims), 12)
    stages = [[t for _, t in rank_tensors(Model(LLAMA, dims), form, Rank(0, stage, 0))] for stage in range(pp)]
    found = [tensor for tensor in stages[-1] if tensor.key.name == "output_layer.weight"]
    assert len(found) == heads
    for tensor in found:
        assert tensor.pieces[0].name == ("model.embed_tokens.weight" if tied else "lm_head.weight")
