"""Compiles the stand-in device, once for a version of torch and of the source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "torch_npu" / "device.cpp"
ROOT = Path(__file__).parents[3]


def build(cache: Path) -> Path:
    """The compiled library in ``cache``; needs g++, takes 10 seconds."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = cache / f"npu-standin-{key}.so"
    if library.is_file():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")
    package = Path(torch.__file__).parent
    includes = [f"-I{package / 'include'}", f"-I{package / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = [f"-L{package / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    options = ["-O0", "-shared", "-fPIC", "-std=c++20", "-w"]
    command = ["g++", *options, *includes, str(SOURCE), "-o", str(partial), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    partial.rename(library)
    return library


def has_compiler() -> bool:
    return shutil.which("g++") is not None


def environment(library: Path) -> dict[str, str]:
    """The environment of a process whose torch_npu is the stand-in."""
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    return {**os.environ, "SEQPACK_NPU_STANDIN": str(library), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
