"""Ascend NPUs. torch_npu is imported here, once one is chosen, and nowhere else.

Nothing of this has run on an NPU. Tests run it on a device that stands in for one, and against the interface of the
real torch_npu.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from seqpack.core.errors import DeviceError, SeqpackError
from seqpack.runtime.npu_errors import explain

SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


class NpuBackend:
    """NPU number ``index`` of those this process may see (``ASCEND_RT_VISIBLE_DEVICES``)."""

    def __init__(self, index: int = 0) -> None:
        self._npu = load_torch_npu()
        count = self._npu.device_count() if self._npu.is_available() else 0
        if index >= count:
            raise DeviceError(
                "SP501",
                f"--device npu: process {index} of this machine has no NPU of its own: it sees {count}",
                help="see npu-smi info and ASCEND_RT_VISIBLE_DEVICES; start one process for each NPU",
            )
        try:
            # Else every operator is compiled anew for each new number of tokens, which takes seconds each time.
            self._npu.set_compile_mode(jit_compile=False)
            # Weights stay in the order they are saved in, which sharding cuts along.
            self._npu.config.allow_internal_format = False
            self._npu.set_device(index)
        except RuntimeError as error:
            raise (explain(error) or error) from error
        self.device = torch.device("npu", index)
        self.name = str(self._npu.get_device_name(index))

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)  # also the NPU's generator

    def synchronize(self) -> None:
        self._npu.synchronize(self.device)

    def peak_memory(self) -> int:
        """Most bytes that torch has had of the device."""
        return int(self._npu.max_memory_allocated(self.device))

    def explain(self, error: RuntimeError) -> SeqpackError | None:
        return explain(error)


def npu_is_there(devices: Path = Path("/dev")) -> bool:
    """Whether torch_npu is installed and this machine has an NPU; neither is touched to find out."""
    return _is_installed() and any(devices.glob("davinci[0-9]*"))


def hide_torch_npu() -> None:
    """Keep torch_npu out of this process until an NPU is chosen.

    transformers imports it wherever it is installed, and that fails where its own software is missing.
    """
    if "torch_npu" not in sys.modules:
        sys.modules["torch_npu"] = None  # type: ignore[assignment]


def _is_installed() -> bool:
    if sys.modules.get("torch_npu", torch) is None:
        del sys.modules["torch_npu"]
    return find_spec("torch_npu") is not None


def load_torch_npu(environment: Mapping[str, str] = os.environ) -> Any:
    """The module ``torch.npu``; DeviceError SP502 or SP511 that says what is missing."""
    if not _is_installed():
        raise DeviceError(
            "SP502",
            "--device npu needs torch_npu, which is not installed",
            help='pip install "seqpack-toolkit[npu]", beside the CPU build of torch',
        )
    try:
        import_module("torch_npu")
    except (ImportError, RuntimeError, OSError) as error:
        what = str(error).strip().splitlines()[0]
        raise DeviceError(
            "SP511", f"torch_npu is installed but cannot be loaded: {what}", help=_remedy(what, environment)
        ) from error
    return torch.get_device_module("npu")


def _remedy(what: str, environment: Mapping[str, str]) -> str:
    """What helps against an error of the import, by its first line."""
    if "Two accelerators" in what:
        return "torch_npu works with the CPU build of torch only: pip install torch from its CPU index"
    if "undefined symbol" in what:
        return f"torch_npu has to be made for this torch, {torch.__version__}, and for this version of CANN"
    home = environment.get("ASCEND_HOME_PATH")
    if home is None:
        return f"CANN is not set up in this shell: {SET_ENV}"
    return f"CANN of ASCEND_HOME_PATH {home} does not fit torch_npu or is not complete; set it up anew: {SET_ENV}"
