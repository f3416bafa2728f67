"""Checkpoints of a run as what ``seqpack convert`` reads: the last one holds the model that the run writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.convert.convert import ConvertReport, convert_weights
from seqpack.convert.request import Request
from seqpack.core.errors import SeqpackError
from seqpack.options.convert import ConvertOptions, MegatronOptions
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.runtime.ranks import Ranks
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from tests.distributed import run_ranks

from .conftest import WriteDataset
from .test_run import options

PACKS = [[5, 3, 1], [9], [4, 4], [7]]
TP, EP = "tensor_model_parallel_size", "expert_model_parallel_size"


def run_on(ranks: Ranks, data: Path, save: Path, layout: dict[str, Any], model: str, **given: Any) -> None:
    lora = LoraOptions(lora_r=given.pop("lora_r", None))
    given = {"micro_batch_size": 1, "global_batch_size": 4, "save_interval": 1, "lr": 3e-3, "model": model} | given
    groups = options(data, save, **given)
    execute(prepare(*groups, ParallelOptions(**layout), lora, ranks))


def convert(source: Path, output: Path, to: Any = "hf", **given: Any) -> ConvertReport:
    split = {name: given.pop(name) for name in ("tp", "pp", "ckpt_format") if name in given}
    options = ConvertOptions(source=source, to=to, output=output, **given)
    return convert_weights(Request(options, MegatronOptions(**split)))


def assert_equal_weights(one: Path, other: Path) -> None:
    found, wanted = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.parametrize(
    ("model", "layout"),
    [("tiny:qwen2", {TP: 2}), ("tiny:mixtral", {TP: 2, EP: 2}), ("tiny:qwen3_moe", {})],
)
def test_it_holds_the_model(write_dataset: WriteDataset, tmp_path: Path, model: str, layout: dict[str, Any]) -> None:
    """Also where ranks hold pieces of pieces: rows and columns of a matrix, of some experts."""
    data, run = write_dataset(PACKS, seq_length=10), tmp_path / "run"
    if layout:
        run_ranks(4, run_on, data, run, layout, model)
    else:
        run_on(Ranks(), data, run, layout, model)
    report = convert(run, tmp_path / "hf")
    assert report.verified
    assert report.source_split == "step-1"
    assert_equal_weights(tmp_path / "hf", run / "model")
    convert(run / "step-1", tmp_path / "mcore", "mcore", tp=2, pp=2)
    convert(tmp_path / "mcore", tmp_path / "back")
    assert_equal_weights(tmp_path / "back", run / "model")


@pytest.fixture
def run(write_dataset: WriteDataset, tmp_path: Path) -> Path:
    run_on(Ranks(), write_dataset(PACKS, seq_length=10), tmp_path / "run", {}, "tiny:llama", epochs=2, keep_last=0)
    return tmp_path / "run"


def test_any_step(run: Path, tmp_path: Path) -> None:
    convert(run, tmp_path / "last")
    convert(run / "step-1", tmp_path / "first", hf_dir=run / "model")
    assert_equal_weights(tmp_path / "last", run / "model")
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "last"))
    assert not torch.equal(first["model.norm.weight"], last["model.norm.weight"])


def test_the_type_the_run_computed_with(write_dataset: WriteDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_on(Ranks(), write_dataset(PACKS, seq_length=10), run, {}, "tiny:qwen2", dtype="bfloat16")
    assert any("--params-dtype bf16" in note for note in convert(run, tmp_path / "wide").notes)
    convert(run, tmp_path / "hf", params_dtype="bf16")
    assert_equal_weights(tmp_path / "hf", run / "model")


def error_of(run: Path) -> SeqpackError:
    with pytest.raises(SeqpackError) as caught:
        convert(run, run.parent / "out")
    assert not (run.parent / "out").exists()
    assert caught.value.help
    return caught.value


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
@pytest.mark.parametrize("cut", [True, False])
def test_damaged_files(run: Path, name: str, cut: bool) -> None:
    path = run / "step-2" / name
    path.write_bytes(path.read_bytes()[:-1]) if cut else path.unlink()
    error = error_of(run)
    assert (error.code, error.exit_code) == ("SP401", 3)
    assert name in error.message


def test_a_record_that_cannot_be_read(run: Path) -> None:
    (run / "step-2/checkpoint.json").write_text("{")
    assert error_of(run).code == "SP401"


def test_without_a_config(run: Path) -> None:
    (run / "model/config.json").unlink()
    error = error_of(run)
    assert error.code == "SP407"
    assert "--hf-dir" in str(error.help)


def test_a_config_of_another_model(run: Path) -> None:
    path = run / "model/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tie_word_embeddings": False}))
    error = error_of(run)
    assert error.code == "SP403"
    assert "lm_head.weight" in error.message
    path.write_text(json.dumps(config | {"intermediate_size": 354}))
    error = error_of(run)
    assert error.code == "SP404"
    assert "[352, 128] instead of [354, 128]" in error.message


def test_adapters_are_no_model(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    run_on(Ranks(), data, tmp_path / "base", {}, "tiny:llama")
    run_on(Ranks(), data, tmp_path / "run", {}, str(tmp_path / "base/model"), lora_r=2)
    error = error_of(tmp_path / "run")
    assert error.code == "SP406"
    assert "adapters" in error.message
