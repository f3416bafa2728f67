"""A stand-in for an NPU: the product's own way to one, on a device whose memory is the host's.

It shows that nothing is left on the host, or asked of CUDA, and that training there and on the CPU are one computation.
Its kernels are the CPU's, its attention is the numerical model, its HCCL is gloo.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .standin.build import build, environment, has_compiler

pytestmark = pytest.mark.npu_standin
STEPS = ["--train-iters", "4", "--global-batch-size", "4", "--lr", "1e-3", "--loss-reduction", "sample"]


@pytest.fixture(scope="module")
def library(kept: Path) -> Path:
    if not has_compiler():
        pytest.skip("TRAINING ON THE STAND-IN FOR AN NPU WAS NOT TRIED: there is no g++")
    return build(kept)


def run(library: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=environment(library), capture_output=True, text=True, check=False)


def train(library: Path, packs: Path, save: Path, *words: object) -> Path:
    done = run(library, "-m", "seqpack", "train", packs, "--model", "tiny:qwen2", "--save", save, *STEPS, *words)
    assert done.returncode == 0, done.stderr
    return save


def metrics(save: Path) -> list[tuple[float, float]]:
    """Loss and norm of the gradients of every step."""
    lines = map(json.loads, (save / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["loss"], line["grad_norm"]) for line in lines]


def assert_same_run(ours: Path, wanted: Path, tolerance: float = 2e-5) -> None:
    found, expected = metrics(ours), metrics(wanted)
    assert len(found) == len(expected) == 4
    for step, other in zip(found, expected, strict=True):
        assert step == pytest.approx(other, rel=tolerance)
    ours_weights, weights = (load_file(run / "model" / "model.safetensors") for run in (ours, wanted))
    assert ours_weights.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(ours_weights[name], weight, rtol=0, atol=10 * tolerance)


@pytest.fixture(scope="module")
def on_cpu(library: Path, packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(library, packs, tmp_path_factory.mktemp("cpu") / "run", "--device", "cpu")


def test_one_process_also_resumed(library: Path, packs: Path, on_cpu: Path, tmp_path: Path) -> None:
    save = train(library, packs, tmp_path / "run", "--device", "npu", "--save-interval", 2, "--no-async-save")
    assert_same_run(save, on_cpu)
    before = metrics(save)
    shutil.rmtree(save / "step-4")
    shutil.rmtree(save / "model")
    done = run(library, "-m", "seqpack", "train", "--resume", save)
    assert done.returncode == 0, done.stderr
    assert "stand-in for an NPU, npu attention, one process" in done.stdout
    assert metrics(save) == before


def test_two_processes_that_share_the_weights(library: Path, packs: Path, on_cpu: Path, tmp_path: Path) -> None:
    words = ["--nproc", 2, "--recompute-granularity", "selective", "--save-interval", 4]
    run = train(library, packs, tmp_path / "run", "--device", "npu", *words)
    # Sums in another order: two processes on the CPU differ as much from one.
    assert_same_run(run, on_cpu, tolerance=1e-4)


@pytest.mark.parametrize("algorithm", ["ring", "headdoc"])
def test_two_processes_that_share_rows(
    library: Path, packs: Path, on_cpu: Path, tmp_path: Path, algorithm: str
) -> None:
    words = ["--nproc", 2, "--cp", 2, "--context-parallel-algo", algorithm]
    assert_same_run(train(library, packs, tmp_path / "run", "--device", "npu", *words), on_cpu, tolerance=1e-4)


def test_bfloat16(library: Path, packs: Path, tmp_path: Path) -> None:
    """The CPU's attention rounds at other places."""
    runs = [
        train(library, packs, tmp_path / device, "--device", device, "--dtype", "bfloat16") for device in ("npu", "cpu")
    ]
    for step, other in zip(*map(metrics, runs), strict=True):
        assert step == pytest.approx(other, rel=2e-2)


ON_THE_DEVICE = """
import os

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from seqpack.attention.npu import NpuAttention, missing_npu_attention
from seqpack.attention.npu_cases import CASES, run_cases
from seqpack.core.errors import DeviceError
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.models.load import build_model, resolve_model
from seqpack.models.lora import LoraSettings, add_lora
from seqpack.models.packed import PackedLM
from seqpack.models.recompute import recompute
from seqpack.runtime.batch import collate
from seqpack.runtime.device import select_device
from seqpack.train.loss import chunked_cross_entropy

backend = select_device("npu", index=3)
assert backend.device == torch.device("npu", 3), backend.device
assert torch.npu.config.allow_internal_format is False
assert torch.npu.current_device() == 3
assert missing_npu_attention() == ""
small = [case for case in CASES if sum(case.num_queries) < 1000]
assert all(result.passed for result in run_cases(NpuAttention(torch.ops.npu), device=backend.device, cases=small))

before = backend.peak_memory()
block = torch.empty(2**20, device=backend.device)
assert backend.peak_memory() >= 4 * 2**20, (before, backend.peak_memory())
draws = []
for _ in range(2):
    backend.seed(7)
    draws.append(torch.rand(3, device=backend.device).tolist())
assert draws[0] == draws[1]
torch.random.default_generator.manual_seed(7)  # the host's alone
assert torch.rand(3, device=backend.device).tolist() != draws[0]

def gradient(granularity):
    spec = resolve_model("tiny:qwen2", vocab_size=61)
    model = build_model(spec, dtype=torch.float32, backend=backend)
    model.set_attn_implementation("eager")
    add_lora(model, LoraSettings(2, 4.0, 0.5, ()))
    recompute(model, granularity)
    backend.seed(5)
    model(torch.arange(9, device=backend.device)[None]).logits.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()

# Dropout must be the same in the forward pass and when that is computed again.
assert torch.equal(gradient("none"), gradient("full"))


class Count(TorchDispatchMode):
    forward = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.forward += operator is torch.ops.npu.npu_fusion_attention.default
        return operator(*arguments, **(keywords or {}))

def attention_calls(granularity):
    spec = resolve_model("tiny:qwen2", vocab_size=61)
    model = build_model(spec, dtype=torch.float32, backend=backend)
    recompute(model, granularity)
    row = PackedSequence(*(np.arange(9, dtype=np.int32) for _ in range(2)), np.array([0, 4, 9], np.int32), 0)
    batch = collate([row], MaskMode.BLOCK_CAUSAL).to(backend.device)
    with Count() as count:
        PackedLM(model, NpuAttention(torch.ops.npu), chunked_cross_entropy)(batch).backward()
    return count.forward / spec.config.num_hidden_layers

# Selective recomputation keeps what attention gave.
assert [attention_calls(kind) for kind in ("none", "selective", "full")] == [1, 1, 2]

try:
    select_device("npu", index=8)
except DeviceError as error:
    assert error.code == "SP501", error
else:
    raise AssertionError("there are 8 devices")
print("done", flush=True)
os._exit(0)  # a thread of autograd that still holds Python objects must not meet the interpreter's end
"""


def test_the_device_backend(library: Path) -> None:
    done = run(library, "-c", ON_THE_DEVICE)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_what_cann_says_becomes_a_sentence(library: Path, packs: Path, tmp_path: Path) -> None:
    """An operator that fails in the middle of a step."""
    fail = "import torch, sys; from seqpack.cli.app import run; from seqpack.attention.npu import NpuAttention\n"
    message = "NPU out of memory. Tried to allocate 20.00 GiB (NPU 0; 60.97 GiB total capacity)"
    fail += f"def broken(*_, **__): raise torch.OutOfMemoryError({message!r})\n"
    fail += "NpuAttention.forward = broken\nsys.exit(run(sys.argv[1:]))"
    words = ["train", packs, "--model", "tiny:qwen2", "--device", "npu", "--save", tmp_path / "run"]
    done = run(library, "-c", fail, *words)
    assert done.returncode == 5
    assert "error[SP513]: the NPU is out of memory: Tried to allocate 20.00 GiB" in done.stderr
    assert "--micro-batch-size" in done.stderr
