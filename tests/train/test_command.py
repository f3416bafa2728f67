"""``seqpack train`` as a function of its option groups."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.commands.packages import require_training_packages
from seqpack.commands.train import train
from seqpack.core.errors import ConfigError, DeviceError
from seqpack.options.context import ContextOptions
from seqpack.options.megatron import ArchitectureOptions, MegatronOptions, RefusedTrainOptions
from seqpack.options.nodes import NodeOptions
from seqpack.options.output import OutputOptions
from seqpack.options.resolved import Resolved
from seqpack.options.train import LoraOptions, ModelOptions, ParallelOptions, RunOptions, TrainDataOptions, TrainOptions

from .conftest import WriteDataset

JSON = OutputOptions(json=True)


def run(
    data: Path,
    save: Path,
    *,
    dry_run: bool = False,
    nproc: int | None = None,
    cp: int = 1,
    output: OutputOptions = JSON,
) -> None:
    options = RunOptions(save=save, dry_run=dry_run, log_interval=1)
    groups = (
        TrainDataOptions(data_path=[str(data)]),
        ModelOptions(model="tiny:llama"),
        TrainOptions(),
        options,
        LoraOptions(),
        ParallelOptions(nproc=nproc, context_parallel_size=cp),
        NodeOptions(),
        ContextOptions(),
        ArchitectureOptions(),
        MegatronOptions(),
        RefusedTrainOptions(),
        output,
    )
    train(*groups, resolved=Resolved("train", {}, {}))


def test_json_holds_the_plan_and_the_result(
    write_dataset: WriteDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_dataset([[5, 3], [7]]), tmp_path / "run")
    stdout, stderr = capsys.readouterr()
    value = json.loads(stdout)
    assert value["plan"]["num_steps"] == value["result"]["num_steps"] == 1
    assert value["result"]["model_path"] == str(tmp_path / "run" / "model")
    assert "step 1/1" in stderr


def test_dry_run_writes_nothing(
    write_dataset: WriteDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_dataset([[5, 3], [7]]), tmp_path / "run", dry_run=True)
    value = json.loads(capsys.readouterr().out)
    assert value["dry_run"] is True
    assert value["plan"]["num_parameters"] > 0
    assert not (tmp_path / "run").exists()


def test_dry_run_of_several_processes_starts_none(
    write_dataset: WriteDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write_dataset([[5, 3], [7]]), tmp_path / "run", dry_run=True, nproc=4)
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["parallel"] == "dp 4"
    assert plan["state_bytes"] == 16 * plan["num_parameters"] // 4
    assert not (tmp_path / "run").exists()


def test_dry_run_prices_the_ways_to_share_rows(
    write_dataset: WriteDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset([[5, 3], [7]])
    run(data, tmp_path / "run", dry_run=True, nproc=4, cp=4)
    prices = {price["algorithm"]: price for price in json.loads(capsys.readouterr().out)["context_parallel"]}
    assert sum(price["taken"] for price in prices.values()) == pytest.approx(1)
    run(data, tmp_path / "run", dry_run=True, nproc=4, cp=4, output=OutputOptions())
    table = capsys.readouterr().out
    assert all(name in table for name in prices)
    assert "auto takes it for" in table
    run(data, tmp_path / "run", dry_run=True, nproc=4)
    assert json.loads(capsys.readouterr().out)["context_parallel"] == []


def test_processes_that_cannot_share_start_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpack.train.launch.launch", lambda *arguments: pytest.fail("processes were started"))
    with pytest.raises(ConfigError, match="3 processes cannot be divided by --dp-replicate 1 x --cp 2") as raised:
        run(tmp_path / "data", tmp_path / "run", nproc=3, cp=2)
    assert raised.value.code == "SP601"


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpack.commands.packages.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"seqpack-toolkit\[train\]") as raised:
        run(tmp_path / "data", tmp_path / "run")
    assert raised.value.code == "SP502"


def test_importing_the_command_is_cheap() -> None:
    assert importlib.util.find_spec("torch") is not None
    heavy = "{'torch', 'transformers', 'numpy', 'pyarrow', 'rich'}"
    code = f"import sys, seqpack.commands.train, seqpack.options.train; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_torch_is_imported_without_the_extensions_that_load_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_npu without CANN would end ``import torch``."""
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    require_training_packages("training")
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
