"""Where tensors live. A backend is a value that is passed in, so one test process can run several."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from seqpack.core.errors import DeviceError, SeqpackError
from seqpack.runtime.npu import NpuBackend, hide_torch_npu, npu_is_there


class DeviceBackend(Protocol):
    """What training needs to know about a kind of device."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    def seed(self, seed: int) -> None:
        """Seed the generators that random weights are drawn from."""

    def synchronize(self) -> None:
        """Return when all work given to the device is done."""

    def peak_memory(self) -> int:
        """Most bytes in use so far."""

    def explain(self, error: RuntimeError) -> SeqpackError | None:
        """The error to show instead of one that the device raised, or None if it is not the device's."""


class CpuBackend:
    """The host. ``num_threads`` is set for the whole process, as torch has it no other way."""

    name = "cpu"
    device = torch.device("cpu")

    def __init__(self, num_threads: int | None = None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def synchronize(self) -> None:
        """CPU kernels have finished when their call returns."""

    def peak_memory(self) -> int:
        """Peak resident set of the process: weights, activations and everything else."""
        status = Path("/proc/self/status")
        if status.is_file():  # Linux, where getrusage begins with the peak of the parent process
            return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1)) * 1024  # type: ignore[union-attr]
        unit = 1 if sys.platform == "darwin" else 1024  # the one field of getrusage whose unit differs
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def explain(self, error: RuntimeError) -> SeqpackError | None:
        return None


class CudaBackend:
    """One CUDA device of this process, number ``index``. Written and not run yet: nothing here has had a GPU."""

    def __init__(self, index: int = 0) -> None:
        torch.cuda.set_device(index)
        self.device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def peak_memory(self) -> int:
        """Most bytes that torch has had of the device."""
        return torch.cuda.max_memory_allocated(self.device)

    def explain(self, error: RuntimeError) -> SeqpackError | None:
        return None


def select_device(name: str, *, num_threads: int | None = None, index: int = 0) -> DeviceBackend:
    """The backend for ``--device``; SP501, SP502 or SP511 for a device that cannot be used here.

    "auto" is NPU ``index`` where there is one, else the CPU.
    """
    if name == "auto":
        name = "npu" if npu_is_there() else "cpu"
    if name == "npu":
        return NpuBackend(index)
    hide_torch_npu()
    if name == "cpu":
        return CpuBackend(num_threads)
    if name == "cuda" and torch.cuda.is_available():
        return CudaBackend(index)
    raise DeviceError("SP501", f"--device {name} is not available here", help="choose --device cpu")


@contextmanager
def device_errors(backend: DeviceBackend) -> Iterator[None]:
    """Errors of the device, raised in the block, as sentences."""
    try:
        yield
    except RuntimeError as error:
        if (explained := backend.explain(error)) is None:
            raise
        raise explained from error
