"""Real torch_npu, no NPU and no CANN: its dispatcher, shape functions and import take what we do with them.

That shows nothing about what an NPU computes. The wheel is installed into a folder of its own, CANN's libraries are
link stubs; see ``real_torch_npu.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import real_torch_npu as real

pytestmark = pytest.mark.npu_schema
CHECKS = [
    line.removeprefix("def ").partition("(")[0]
    for line in (Path(__file__).parent / "on_real_torch_npu.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("def check_")
]


@pytest.fixture(scope="module")
def package(kept: Path) -> Path:
    if missing := [tool for tool in real.TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"THE SCHEMAS OF THE REAL torch_npu WERE NOT CHECKED: there is no {', '.join(missing)}")
    try:
        return real.install(kept)
    except LookupError as error:
        pytest.skip(f"THE SCHEMAS OF THE REAL torch_npu WERE NOT CHECKED: no {real.requirement()}: {error}")


@pytest.fixture(scope="module")
def results(package: Path) -> dict[str, str]:
    """Check -> its error, all from one process: the import takes longer than they do."""
    command = [sys.executable, "-m", "tests.npu.on_real_torch_npu"]
    environment = real.environment(package, real.make_stubs(package)) | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run(command, env=environment, cwd=real.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_on_the_real_torch_npu(results: dict[str, str], check: str) -> None:
    assert results[check] == ""


def test_every_check_was_tried(results: dict[str, str]) -> None:
    assert len(CHECKS) > 8
    assert list(results) == CHECKS


def train(package: Path, stubs: Path | None, packs: Path, device: str) -> subprocess.CompletedProcess[str]:
    words = ["train", packs, "--model", "tiny:qwen2", "--device", device, "--save", packs.parent / "run", "--dry-run"]
    command = [sys.executable, "-m", "seqpack", *map(str, words)]
    return subprocess.run(
        command, env=real.environment(package, stubs), cwd=packs.parent, capture_output=True, text=True, check=False
    )


def test_torch_npu_without_cann_says_what_is_missing(package: Path, packs: Path) -> None:
    done = train(package, None, packs, "npu")
    assert done.returncode == 5, done.stderr
    assert "error[SP511]: torch_npu is installed but cannot be loaded: lib" in done.stderr
    assert "set_env.sh" in done.stderr


def test_torch_npu_without_cann_is_no_matter_on_the_cpu(package: Path, packs: Path) -> None:
    """transformers and torch would both import it, and end with it."""
    done = train(package, None, packs, "cpu")
    assert done.returncode == 0, done.stderr
    assert "cpu, flash attention" in done.stdout


def test_torch_npu_with_cann_and_no_npu(package: Path, packs: Path) -> None:
    done = train(package, real.make_stubs(package), packs, "npu")
    assert done.returncode == 5, done.stderr
    assert "error[SP501]: --device npu: process 0 of this machine has no NPU of its own: it sees 0" in done.stderr
