"""Which layer is on which stage, by hand; and what cannot be divided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seqpack.convert.dims import ModelDims
from seqpack.convert.split import SplitRequest, padded_vocab
from seqpack.core.errors import ConfigError

DIMS = ModelDims(
    vocab_size=61, hidden_size=24, ffn_hidden_size=40, num_layers=6, num_heads=4, num_groups=2, head_dim=10, tied=False
)
MOE = replace(DIMS, num_experts=4, expert_ffn_size=20)


def stages(dims: ModelDims = DIMS, **flags: Any) -> Any:
    return SplitRequest(**flags).of(dims).stages


def test_even_stages() -> None:
    assert stages(pp=3) == (((0, 1),), ((2, 3),), ((4, 5),))


def test_uneven_stages() -> None:
    assert stages(pp=3, num_layer_list=(1, 3, 2)) == (((0,),), ((1, 2, 3),), ((4, 5),))


def test_virtual_stages_take_turns() -> None:
    assert stages(pp=3, layers_per_virtual_stage=1) == (((0,), (3,)), ((1,), (4,)), ((2,), (5,)))


def test_layers_that_do_nothing_are_counted() -> None:
    assert stages(pp=2, noop_layers=(0, 7)) == (((None, 0, 1, 2),), ((3, 4, 5, None),))
    split = SplitRequest(pp=2, layers_per_virtual_stage=2, noop_layers=(3, 4)).of(DIMS)
    assert split.stages == (((0, 1), (None, 3)), ((2, None), (4, 5)))
    assert (split.noop_layers, split.slots) == ((3, 4), (0, 1, 2, None, None, 3, 4, 5))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"pp": 4}, "6 layers cannot be divided over 4"),
        ({"pp": 4, "noop_layers": (6,)}, "7 layers with 1 of --noop-layers"),
        ({"pp": 2, "layers_per_virtual_stage": 2}, "a pipeline stage has 3 layers"),
        ({"pp": 2, "layers_per_virtual_stage": 3}, "does not fit"),
        ({"layers_per_virtual_stage": 2}, "does not fit"),
        ({"pp": 2, "num_layer_list": (2, 3)}, "2,3 does not place 6 layers"),
        ({"pp": 2, "num_layer_list": (2, 2, 2)}, "on 2 pipeline stages"),
        ({"pp": 2, "num_layer_list": (6, 0)}, "6,0"),
        ({"pp": 2, "num_layer_list": (2, 4), "layers_per_virtual_stage": 1}, "exclude each other"),
        ({"noop_layers": (8,)}, "numbered 0 to 6"),
        ({"noop_layers": (1, 1)}, "each once"),
        ({"tp": 3}, "4 attention heads"),
        ({"tp": 8}, "4 attention heads"),
        ({"ep": 2}, "no experts"),
    ],
)
def test_what_cannot_be_divided_is_said(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        stages(**flags)
    assert caught.value.code == "SP414"
    assert caught.value.help


@pytest.mark.parametrize(
    ("dims", "flags", "words"),
    [
        (MOE, {"ep": 3}, "4 experts"),
        (replace(MOE, expert_ffn_size=21), {"tp": 2}, "expert of 21 cannot be divided over TP 2"),
        (replace(MOE, ffn_hidden_size=41), {"tp": 2, "expert_tp": 1}, "MLP of 41 cannot be divided over TP 2"),
        (replace(DIMS, ffn_hidden_size=41), {"tp": 2}, "MLP of 41"),
        (replace(DIMS, num_heads=12, num_groups=3), {"tp": 2}, "3 key-value heads"),
    ],
)
def test_sizes_that_do_not_divide(dims: ModelDims, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stages(dims, **flags)


def test_whole_experts_need_not_divide() -> None:
    assert SplitRequest(tp=2, expert_tp=1).of(replace(MOE, expert_ffn_size=21)).expert_tp == 1


def test_more_ranks_than_groups_cut_through_groups() -> None:
    assert SplitRequest(tp=4).of(DIMS).tp == 4


@pytest.mark.parametrize(
    ("size", "multiple", "tp", "rows"),
    [
        (151665, 128, 1, 151680),
        (151665, 128, 2, 151808),
        (151665, 128, 4, 152064),
        (151936, 128, 8, 152576),
        (61, 1, 1, 61),
        (61, 1, 4, 64),
        (64, 1, 4, 64),
    ],
)
def test_rows_of_a_filled_up_vocabulary_are_those_of_megatron(size: int, multiple: int, tp: int, rows: int) -> None:
    assert padded_vocab(size, multiple=multiple, tp=tp) == rows
