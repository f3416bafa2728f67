"""There and back again, bit for bit, by way of every kind of split; all combinations have the marker ``exhaustive``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.convert.convert import convert_weights

from .conftest import FAMILIES, make_model, options, same_bytes

EXPERTS = ("qwen3_moe", "mixtral")
PIPELINES: dict[str, dict[str, Any]] = {
    "pp1": {},
    "pp2": {"pp": 2},
    "uneven": {"pp": 3, "num_layer_list": "1,3,2"},
    "virtual": {"pp": 2, "layers_per_virtual_stage": 1},
    "noop": {"pp": 2, "noop_layers": "0,7"},
    "noop at ends": {"pp": 2, "noop_layers": "3,7"},
    "uneven noop": {"pp": 2, "num_layer_list": "5,3", "noop_layers": "1,7"},
    "whole chunk noop": {"pp": 2, "layers_per_virtual_stage": 2, "noop_layers": "2,3"},
    "virtual noop": {"pp": 2, "layers_per_virtual_stage": 2, "noop_layers": "3,7"},
}
KINDS_OF_EXPERTS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "joined": {"moe_grouped_gemm": True},
    "grouped": {"moe_grouped_gemm": True, "transformer_impl": "transformer_engine"},
    "whole": {"expert_tp": 1},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of a family, made once; half of them in bfloat16, one layer of Qwen3-MoE without experts."""
    made: dict[tuple[str, bool], Path] = {}

    def model(family: str, tied: bool) -> Path:
        if (family, tied) not in made:
            sizes = {"mlp_only_layers": [1]} if family == "qwen3_moe" else {}
            dtype = torch.bfloat16 if tied else torch.float32
            folder = tmp_path_factory.mktemp(family) / str(tied)
            made[family, tied] = make_model(
                folder, family, dtype=dtype, num_hidden_layers=6, tie_word_embeddings=tied, **sizes
            )
        return made[family, tied]

    return model


def assert_there_and_back(model: Path, folder: Path, **split: Any) -> None:
    """To that split; to another one; and back from each: what came back twice is what was there."""
    other = {"tp": 1 if split.get("tp", 1) > 1 else 2, "pp": 3, "overwrite": True}
    assert convert_weights(options(model, "mcore", folder / "one", overwrite=True, **split)).verified
    assert convert_weights(options(folder / "one", "mcore", folder / "other", **other)).verified
    before = load_file(model / "model.safetensors")
    for name in ("one", "other"):
        assert convert_weights(options(folder / name, "hf", folder / "back", overwrite=True)).verified
        after = load_file(folder / "back/model.safetensors")
        assert before.keys() == after.keys()
        assert [key for key in before if not same_bytes(before[key], after[key])] == []


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(models: Any, family: str, tied: bool, tmp_path: Path) -> None:
    split = {"tp": 2, **PIPELINES["virtual noop" if tied else "uneven"], "make_vocab_size_divisible_by": 4}
    assert_there_and_back(models(family, tied), tmp_path, **split, **({"ep": 2} if family in EXPERTS else {}))


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline(models: Any, pipeline: str, tp: int, tmp_path: Path) -> None:
    assert_there_and_back(models("qwen2", True), tmp_path, tp=tp, **PIPELINES[pipeline])


@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("kind", KINDS_OF_EXPERTS)
def test_every_kind_of_experts(models: Any, kind: str, ep: int, tmp_path: Path) -> None:
    assert_there_and_back(models("qwen3_moe", False), tmp_path, tp=2, ep=ep, **KINDS_OF_EXPERTS[kind])


def matrix() -> Iterator[Any]:
    for family, tied, tp, pipeline, spelling in itertools.product(
        FAMILIES, (True, False), (1, 2, 4), PIPELINES, ("local", "transformer_engine")
    ):
        kinds = KINDS_OF_EXPERTS if family in EXPERTS else {"": {}}
        for kind, ep in itertools.product(kinds, (1, 2) if family in EXPERTS else (1,)):
            split = {"tp": tp, "ep": ep, "transformer_impl": spelling} | PIPELINES[pipeline] | kinds[kind]
            name = f"{family}-{'tied' if tied else 'untied'}-tp{tp}-{pipeline}-{spelling}-{kind}-ep{ep}"
            yield pytest.param(family, tied, split, id=name)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("family", "tied", "split"), list(matrix()))
def test_the_matrix(models: Any, family: str, tied: bool, split: dict[str, Any], tmp_path: Path) -> None:
    assert_there_and_back(models(family, tied), tmp_path, make_vocab_size_divisible_by=3, **split)
