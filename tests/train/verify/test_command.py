"""``seqpack verify`` as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import seqpack.attention.cpu
from seqpack.cli.app import load_command, run

from ..conftest import WriteDataset
from .test_verify import causal_over_the_pack

PACKS = [[5, 3, 4], [9, 2], [4, 4]]


def verify(capsys: pytest.CaptureFixture[str], data: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    code = 0
    try:
        code = run(["verify", str(data), "--model", "tiny:qwen2", "--rows", "1", "--json", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_a_right_set_ends_with_0_and_writes_nothing(
    write_dataset: WriteDataset, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(PACKS, seq_length=13)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, value, _ = verify(capsys, data)
    assert code == 0 and value["passed"] is True
    assert {"isolation", "gradients", "source texts"} <= {check["name"] for check in value["checks"]}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_fault_ends_with_1_and_is_on_the_screen(
    write_dataset: WriteDataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    causal_over_the_pack(monkeypatch)
    data = write_dataset(PACKS, seq_length=13)
    code, value, _ = verify(capsys, data)
    assert code == 1 and value["passed"] is False
    with pytest.raises(SystemExit) as ended:
        run(["verify", str(data), "--model", "tiny:qwen2", "--rows", "1", "-q"])
    assert ended.value.code == 1
    screen = capsys.readouterr().out
    assert "✗ failed" in screen and "failed: isolation, logits, loss, gradients" in screen
    assert seqpack.attention.cpu.cpu_flash_attention.__name__ == "whole"  # what was planted


def test_the_options_of_a_run_are_taken_from_its_file(
    write_dataset: WriteDataset, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, save = write_dataset(PACKS, seq_length=13), tmp_path / "run"
    words = ["--model", "tiny:llama", "--dtype", "float64", "--epochs", "1", "--lr", "1e-3", "--eval-interval", "1"]
    assert run(["train", str(data), *words, "--split", "60,40,0", "--save", str(save), "-q"]) == 0
    capsys.readouterr()
    code = run(["verify", "--config", str(save / "resolved.yaml"), "--rows", "1", "--json"])
    value = json.loads(capsys.readouterr().out)
    assert code == 0
    assert value["on"]["model"] == "a small copy of tiny:llama"
    assert "float64" in value["on"]["runs on"]


def test_two_processes(write_dataset: WriteDataset) -> None:
    data = write_dataset(PACKS, seq_length=13)
    words = ["verify", data, "--model", "tiny:qwen2", "--nproc", "2", "--num-threads", "1", "--rows", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "seqpack", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert "dp 2" in value["on"]["runs on"]
    assert next(check for check in value["checks"] if check["name"] == "same data")["outcome"] == "passed"


def test_what_is_left_out_is_said(write_dataset: WriteDataset, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(PACKS, seq_length=13)
    code, value, _ = verify(capsys, data, "--compile", "--lora-r", "2")
    assert code == 0
    left_out = [note for note in value["notes"] if "is left out" in note]
    assert [note.split()[0] for note in left_out] == ["--lora-r", "--compile"]


def test_a_dry_run_of_it_is_refused(write_dataset: WriteDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(write_dataset(PACKS)), "--model", "tiny:qwen2", "--dry-run"]) == 2
    assert "SP028" in capsys.readouterr().err


def test_every_option_of_train_is_taken() -> None:
    flags = {}
    for name in ("train", "verify"):
        flags[name] = {flag for option in load_command(name).params for flag in option.opts}
    assert len(flags["train"]) > 50
    assert flags["train"] - flags["verify"] == set()
