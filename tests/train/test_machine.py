from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

import seqpack.attention.npu_cases
import seqpack.attention.registry
import seqpack.train.machine
from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.npu_cases import CASES, run_cases
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.cli.app import run
from seqpack.train.machine import attention_checks, check_npu_pair, check_numbers, network_checks, torch_checks

FLASH = BUILTIN_BACKENDS[0]


@pytest.mark.parametrize(
    ("environment", "npu", "outcome", "text"),
    [
        ({}, False, "passed", "nothing is set"),
        ({"GLOO_SOCKET_IFNAME": "lo", "NCCL_DEBUG": "INFO"}, False, "passed", "GLOO_SOCKET_IFNAME=lo, NCCL_DEBUG=INFO"),
        ({"GLOO_SOCKET_IFNAME": "none0"}, False, "failed", "GLOO_SOCKET_IFNAME=none0 names no network interface"),
        ({}, True, "warning", "HCCL_CONNECT_TIMEOUT=1800"),
        ({"HCCL_CONNECT_TIMEOUT": "1800"}, True, "passed", "HCCL_CONNECT_TIMEOUT=1800"),
    ],
)
def test_network_variables(
    environment: dict[str, str], npu: bool, outcome: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seqpack.train.machine, "_has_npu", lambda: npu)
    (found,) = network_checks(environment)
    assert found.outcome == outcome and text in found.seen


@pytest.mark.parametrize(
    ("theirs", "ours", "outcome"),
    [("2.13.0", "2.13.1+cpu", "passed"), ("2.13.0.post2", "2.13.0", "passed"), ("2.14.0", "2.13.0", "failed")],
)
def test_torch_npu_goes_with_one_torch(theirs: str, ours: str, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqpack.train.machine, "installed_version", lambda name: theirs)
    assert check_npu_pair(ours).outcome == outcome


def test_attention_of_a_device_and_why_the_rest_is_not_usable() -> None:
    (found,) = attention_checks("cpu", numbers=False)
    assert found.outcome == "passed"
    assert "flash (float64, float32, bfloat16)" in found.seen
    assert "varlen does not run on cpu" in found.seen
    (found,) = attention_checks("cuda", numbers=False)
    assert found.outcome == "failed" and "nothing keeps samples apart" in found.seen
    assert "varlen needs a CUDA device" in found.seen or "varlen is not part of torch" in found.seen


def test_numbers_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        seqpack.attention.npu_cases.run_cases, "__kwdefaults__", {**run_cases.__kwdefaults__, "cases": CASES[:3]}
    )
    assert check_numbers(FLASH, "cpu", ["float32"]).outcome == "passed"

    def whole_row(*tensors: torch.Tensor, cu_q: Any, cu_k: Any, **settings: Any) -> Any:
        return cpu_flash_attention(*tensors, cu_q=cu_q[[0, -1]], cu_k=cu_k[[0, -1]], **settings)

    found = check_numbers(replace(FLASH, load=lambda: whole_row), "cpu", ["float32"])
    assert found.outcome == "failed"
    assert found.seen.startswith("samples side by side in float32: output ")

    def broken(*tensors: torch.Tensor, **settings: Any) -> Any:
        raise RuntimeError("no kernel image\nmore")

    found = check_numbers(replace(FLASH, load=lambda: broken), "cpu", ["float32"])
    assert (found.outcome, found.seen) == ("failed", "float32: RuntimeError: no kernel image")


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqpack.train.machine, "find_spec", lambda name: None)
    (found,) = torch_checks(numbers=True)
    assert found.outcome == "skipped" and "seqpack-toolkit[train]" in found.seen


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["doctor", "--no-numbers", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["passed"] is True
    assert {"torch", "attention on cpu", "packages: training"} <= {check["name"] for check in value["checks"]}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    with pytest.raises(SystemExit) as ended:
        run(["doctor", "--no-numbers"])
    assert ended.value.code == 1
    assert "failed: network" in capsys.readouterr().out


WITHOUT_TORCH = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("torch", "transformers") else find(name, *more)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from seqpack.cli.app import run
sys.exit(run(["doctor"]))
"""


def test_it_works_where_torch_is_not_installed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not installed: data can be prepared, not trained on" in done.stdout
    assert done.stdout.rstrip().endswith("data can be prepared")
