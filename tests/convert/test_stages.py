"""Layers that do nothing are in no file: where they lie is read from gaps, and from args where there is no gap."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from seqpack.convert.convert import convert_weights
from seqpack.convert.megatron_args import arg_numbers
from seqpack.convert.split import Rank
from seqpack.convert.stages import find_stages
from seqpack.core.errors import ConfigError

from .conftest import make_model, options

_ = None  # a layer that does nothing


def files(*stages: tuple[tuple[int, ...], ...]) -> dict[Rank, dict[int, list[str]]]:
    """Of each stage, of each virtual stage: the numbers of its layers there."""
    return {
        Rank(0, stage, 0): {
            chunk: [f"decoder.layers.{number}.mlp.linear_fc1.weight" for number in numbers]
            for chunk, numbers in enumerate(chunks)
        }
        for stage, chunks in enumerate(stages)
    }


@pytest.mark.parametrize(
    ("found", "args", "expected"),
    [
        (files(((0, 1),), ((0,),)), {}, (((0, 1),), ((2,),))),
        (files(((0, 2),), ((1,),)), {}, (((0, _, 1),), ((_, 2),))),
        (files(((0, 1),), ((0,),)), {"noop_layers": "3"}, (((0, 1),), ((2, _),))),
        (files(((0, 1),), ((0, 1),)), {"noop_layers": "2,5"}, (((0, 1, _),), ((2, 3, _),))),
        (files(((0, 1),), ((0, 1),)), {"noop_layers": {2, 3, 6, 7}}, (((0, 1, _, _),), ((2, 3, _, _),))),
        (files(((0, 2),), ((0,),)), {"noop_layers": "1,4", "num_layer_list": "3,2"}, (((0, _, 1),), ((2, _),))),
        (files(((0, 1), (0,)), ((0, 1), ())), {}, (((0, 1), (4, _)), ((2, 3), (_, _)))),
        (files(((0,), (0,)), ((), ())), {"noop_layers": [1, 3]}, (((0,), (1,)), ((_,), (_,)))),
        # args that fit other files do not make layers vanish
        (files(((0, 1, 2),), ((0,),)), {"noop_layers": "1", "num_layer_list": "1,1"}, (((0, 1, 2),), ((3,),))),
    ],
)
def test_what_files_and_args_say(found: object, args: dict[str, object], expected: object) -> None:
    assert find_stages(found, Namespace(**args), len(found)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "numbers"),
    [("3,1", (3, 1)), (" 2 ", (2,)), ([1, 2], (1, 2)), ({4}, (4,)), (None, ()), ("", ()), (True, ()), (["1", 2], (2,))],
)
def test_numbers_of_args(value: object, numbers: tuple[int, ...]) -> None:
    assert arg_numbers(Namespace(layers=value), "layers") == numbers
    assert arg_numbers(None, "layers") == ()


def test_a_virtual_stage_without_layers_has_an_entry_in_each_file(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", num_hidden_layers=2)
    split = {"pp": 2, "layers_per_virtual_stage": 1, "noop_layers": "1,3"}
    convert_weights(options(model, "mcore", tmp_path / "out", **split))
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(tmp_path / "out/iter_0000001/mp_rank_00_001/model_optim_rng.pt", weights_only=True)
    assert state["model0"] == {}
    assert list(state["model1"]) == ["decoder.final_layernorm.weight", "output_layer.weight"]


def test_a_stage_that_would_hold_nothing_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", num_hidden_layers=2)
    with pytest.raises(ConfigError, match="pipeline stage 1 would hold nothing") as caught:
        convert_weights(options(model, "mcore", tmp_path / "out", pp=3, noop_layers="1"))
    assert (caught.value.code, (tmp_path / "out").exists()) == ("SP414", False)
