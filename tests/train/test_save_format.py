"""What a run leaves in the end: ``--save-format hf|mcore|native``; and runs that begin with a Megatron checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.convert.convert import convert_weights
from seqpack.convert.request import Request
from seqpack.core.errors import ConfigError
from seqpack.models.stages import PipelineCut
from seqpack.options.convert import ConvertOptions
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.megatron_export import check_export, megatron_options
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from tests.distributed import run_ranks

from .conftest import WriteDataset
from .test_resume import losses
from .test_run import options

PACKS = [[5, 3, 1], [9], [4, 4], [7]]


def run_on(ranks: Ranks, data: Path, save: Path, layout: dict[str, Any], **given: Any) -> str:
    groups = options(data, save, lr=3e-3, **given)
    prepared = prepare(*groups, ParallelOptions(**layout), LoraOptions(), ranks)
    return str(execute(prepared).model_path)


def run_in_two_formats(ranks: Ranks, data: Path, folder: Path, layout: dict[str, Any]) -> list[str]:
    return [run_on(ranks, data, folder / name, layout, save_format=name) for name in ("hf", "mcore")]


def assert_equal_weights(checkpoint: Path, model: Path, folder: Path) -> None:
    convert_weights(Request(ConvertOptions(source=checkpoint, to="hf", output=folder)))
    found, wanted = (load_file(place / "model.safetensors") for place in (folder, model))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_megatron_checkpoint(write_dataset: WriteDataset, tmp_path: Path) -> None:
    """It holds what the Hugging Face directory would, and a run that begins with it is the same as with that."""
    data = write_dataset(PACKS, seq_length=10)
    hf, mcore = map(Path, run_in_two_formats(Ranks(), data, tmp_path, {}))
    assert mcore == tmp_path / "mcore" / "mcore"
    assert not (tmp_path / "mcore" / "model").exists()
    assert (mcore / "hf/tokenizer.json").exists()
    assert_equal_weights(mcore, hf, tmp_path / "back")
    for name, model in (("one", hf), ("other", mcore)):
        run_on(Ranks(), data, tmp_path / name, {}, model=str(model))
    assert losses(tmp_path / "one") == losses(tmp_path / "other")


@pytest.mark.parametrize(
    ("layout", "folders"),
    [
        ({"tensor_model_parallel_size": 2}, {"mp_rank_00", "mp_rank_01"}),
        ({"pipeline_model_parallel_size": 2}, {"mp_rank_00_000", "mp_rank_00_001"}),
    ],
)
def test_it_is_split_as_the_run_was(
    write_dataset: WriteDataset, tmp_path: Path, layout: dict[str, Any], folders: set[str]
) -> None:
    data = write_dataset(PACKS, seq_length=10)
    hf, mcore = map(Path, run_ranks(2, run_in_two_formats, data, tmp_path, layout)[0])
    assert {path.name for path in (mcore / "iter_0000001").iterdir()} == folders
    assert_equal_weights(mcore, hf, tmp_path / "back")
    # and opened at another split than it has
    other = {"pipeline_model_parallel_size": 2} if "tensor_model_parallel_size" in layout else {}
    run_ranks(2, run_on_checkpoint, data, tmp_path / "again", other, str(mcore))
    assert len(losses(tmp_path / "again")) == 2


def run_on_checkpoint(ranks: Ranks, data: Path, save: Path, layout: dict[str, Any], model: str) -> str:
    return run_on(ranks, data, save, layout, model=model)


def test_native_leaves_only_the_last_checkpoint(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    assert run_on(Ranks(), data, tmp_path / "run", {}, save_format="native") == str(tmp_path / "run/step-2")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"step-2"}
    run_on(Ranks(), data, tmp_path / "run", {}, resume=tmp_path / "run")
    run_on(Ranks(), data, tmp_path / "whole", {})
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_native_needs_checkpoints(write_dataset: WriteDataset, tmp_path: Path) -> None:
    prepared = prepare(*options(write_dataset(PACKS, seq_length=10), tmp_path / "run", save_format="native"))
    with pytest.raises(ConfigError, match="--save-format native") as caught:
        execute(prepared, checkpoints=False)
    assert caught.value.code == "SP208"
    assert not (tmp_path / "run").exists()


def test_another_result_is_not_written_over(write_dataset: WriteDataset, tmp_path: Path) -> None:
    (tmp_path / "run/mcore").mkdir(parents=True)
    with pytest.raises(ConfigError, match="mcore exists") as caught:
        prepare(*options(write_dataset(PACKS, seq_length=10), tmp_path / "run"))
    assert caught.value.code == "SP004"


def test_adapters(write_dataset: WriteDataset, tmp_path: Path) -> None:
    """They have no place in a Megatron checkpoint, and name no such checkpoint as what they belong to."""
    data = write_dataset(PACKS, seq_length=10)
    lora = LoraOptions(lora_r=2)
    with pytest.raises(ConfigError, match="--save-format mcore") as caught:
        prepare(*options(data, tmp_path / "run", save_format="mcore"), lora=lora)
    assert caught.value.code == "SP208"
    mcore = run_on(Ranks(), data, tmp_path / "base", {}, save_format="mcore")
    with pytest.raises(ConfigError, match="--lora-r") as caught:
        prepare(*options(data, tmp_path / "run", model=mcore), lora=lora)
    assert caught.value.code == "SP208"
    assert f"seqpack convert {mcore} --to hf" in str(caught.value.help)


@pytest.mark.parametrize(
    ("counts", "zero_bubble", "expected"),
    [
        ([3, 2], False, {"num_layer_list": "3,2"}),
        ([1, 1, 1, 1], False, {"layers_per_virtual_stage": 1}),
        ([2, 1, 1, 1], False, {"num_layer_list": "3,2"}),
        ([3, 1, 1, 2], True, {"num_layer_list": "5,2"}),
    ],
)
def test_stages(counts: list[int], zero_bubble: bool, expected: dict[str, Any]) -> None:
    starts = [sum(counts[:number]) for number in range(len(counts))]
    layers = tuple(range(start, start + count) for start, count in zip(starts, counts, strict=True))
    found = megatron_options(ParallelPlan(pp=2, tp=4), PipelineCut(2, layers, zero_bubble))
    assert (found.pp, found.tp, found.ep) == (2, 4, 1)
    assert {"layers_per_virtual_stage": None, "num_layer_list": None} | expected == {
        "layers_per_virtual_stage": found.layers_per_virtual_stage,
        "num_layer_list": found.num_layer_list,
    }


@pytest.mark.parametrize(
    ("family", "sizes", "code"),
    [
        ("qwen2", {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}, "SP414"),
        ("gpt2", {}, "SP402"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_training(family: str, sizes: dict[str, int], code: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(ConfigError) as caught:
        check_export(AutoConfig.for_model(family, **sizes), megatron_options(ParallelPlan(tp=4), None))
    assert caught.value.code == code
