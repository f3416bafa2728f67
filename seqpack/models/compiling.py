"""``--compile``: every layer is compiled by torch, where it stands.

One layer at a time, so that all of them share one compilation; lengths are dynamic and boundaries are tensors, so that
other packs do not compile anything anew. Attention is one operator, which stays as it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

from seqpack.core.errors import ConfigError, DeviceError

COMPILER = "inductor"


def check_compiler(device_type: str, config: Any, *, shared_layers: bool = False) -> None:
    """DeviceError SP514 where nothing here can compile for the device; ConfigError SP208 for layers we do not compile.

    These are layers that several processes share, and experts: how many tokens each gets is only known while computing.
    """
    if missing := _missing(device_type):
        raise DeviceError("SP514", f"--compile: {missing}", help="leave --compile out: results are the same without it")
    if shared_layers:
        raise ConfigError(
            "SP208",
            "--compile is for layers that a process has to itself: without --tp, --pp, --cp and --ep",
            help="leave one of them out",
        )
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        raise ConfigError("SP208", "--compile is not for a mixture of experts", help="leave it out")


def compile_layers(layers: Iterable[torch.nn.Module]) -> None:
    """Have the layers compiled when they are first called; names of their weights stay."""
    for layer in layers:
        layer.compile(backend=COMPILER, dynamic=True)


def _missing(device_type: str) -> str:
    """What a compilation for this kind of device would lack, in words; empty if nothing."""
    if device_type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # an error class of its own, which moves between versions of torch
            return f"no C++ compiler works here ({str(error).splitlines()[0]}); it needs g++ or clang++, see CXX"
        return ""
    if device_type == "cuda":
        return (
            "" if importlib.util.find_spec("triton") else "there is no triton here, which torch compiles with for CUDA"
        )
    return f"layers are not compiled for {device_type}"
