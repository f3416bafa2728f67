"""Takes the place of torch_npu in tests: a device "npu" in the host's memory, its attention emulated, HCCL over gloo.

It is a package of that name in a folder that only these tests put on the path, so that what they run is the product's
own way to an NPU. ``SEQPACK_NPU_STANDIN`` names the compiled ``device.cpp``.
"""

from __future__ import annotations

import contextlib
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from tests.npu.emulator import register as register_operators

from . import hccl

__version__ = "2.13.0"

torch.ops.load_library(os.environ["SEQPACK_NPU_STANDIN"])
_device = torch.ops.npu_standin


class Event:
    def __init__(self, *arguments: Any, **keywords: Any) -> None: ...
    def record(self, *arguments: Any) -> None: ...
    def wait(self, *arguments: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


class Stream:
    """Work is done when its call returns, so every stream is the same."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None: ...
    def wait_stream(self, stream: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def synchronize(self) -> None: ...
    def record_event(self, event: Any = None) -> Event:
        return event or Event()


def _index(device: Any) -> int:
    return device if isinstance(device, int) else torch.device(device).index or 0


def _npu_module() -> ModuleType:
    module = ModuleType("torch.npu")
    calls: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_initialized": True,
        "_is_in_bad_fork": lambda: False,
        "_lazy_init": lambda: None,
        "device_count": _device.device_count,
        "current_device": _device.current_device,
        "set_device": lambda device: _device.set_device(_index(device)),
        "device": lambda device: contextlib.nullcontext(),
        "get_device_name": lambda device=None: "stand-in for an NPU",
        "synchronize": lambda device=None: None,
        "max_memory_allocated": lambda device=None: _device.memory()[1],
        "memory_allocated": lambda device=None: _device.memory()[0],
        "reset_peak_memory_stats": lambda device=None: _device.reset_peak(),
        "empty_cache": lambda: None,
        "manual_seed": _device.manual_seed,
        "manual_seed_all": _device.manual_seed,
        "get_rng_state": lambda device=None: _device.rng_state(),
        "set_rng_state": lambda state, device=None: _device.set_rng_state(state),
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "is_bf16_supported": lambda: True,
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "set_stream": lambda stream: None,
        "stream": lambda stream: contextlib.nullcontext(stream),
        "set_compile_mode": lambda jit_compile: None,
        "config": SimpleNamespace(allow_internal_format=True),
    }
    for name, value in calls.items():
        setattr(module, name, value)
    return module


torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", _npu_module())
torch.utils.generate_methods_for_privateuse1_backend()
hccl.register()
_library, _operators = register_operators("2.13.0", "npu")


def __getattr__(name: str) -> Any:
    """The operators, as the real package has them; transformers imports some by name."""
    if name.startswith("npu_") and hasattr(_operators, name):
        return getattr(_operators, name)
    raise AttributeError(name)
