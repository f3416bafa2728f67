"""Element types of weights, under the names of safetensors and of torch, and how one becomes another."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import CheckpointError


class DType(Enum):
    """A floating-point type: its name in safetensors, in torch, torch's class of its storage, and bytes per element."""

    F64 = ("F64", "float64", "DoubleStorage", 8)
    F32 = ("F32", "float32", "FloatStorage", 4)
    F16 = ("F16", "float16", "HalfStorage", 2)
    BF16 = ("BF16", "bfloat16", "BFloat16Storage", 2)

    def __init__(self, safetensors: str, torch: str, storage: str, size: int) -> None:
        self.safetensors, self.torch, self.storage, self.size = safetensors, torch, storage, size

    @property
    def bits(self) -> np.dtype[Any]:
        """Unsigned integers of the same width: what moves elements without looking at them."""
        return np.dtype(f"u{self.size}")


BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in DType}
BY_TORCH = {dtype.torch: dtype for dtype in DType}
BY_STORAGE = {dtype.storage: dtype for dtype in DType}
BY_FLAG = {"fp16": DType.F16, "bf16": DType.BF16, "fp32": DType.F32}

_NUMPY = {DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}


def convert_bits(bits: NDArray[Any], source: DType, target: DType) -> NDArray[Any]:
    """Elements of one type as elements of another, rounded to nearest even as torch does; both as their bits.

    CheckpointError (SP412) if a finite number does not fit into the target type: it would become infinite in silence.
    """
    if source is target:
        return bits
    wide = _from_bfloat16(bits) if source is DType.BF16 else bits.view(_NUMPY[source])
    with np.errstate(over="ignore", invalid="ignore"):
        # by way of float32, as torch goes from float64 to bfloat16
        narrow = _to_bfloat16(wide.astype(np.float32)) if target is DType.BF16 else _bits(wide.astype(_NUMPY[target]))
    if _loses_range(source, target) and _infinities(narrow, target) > int(np.isinf(wide).sum()):
        raise CheckpointError(
            "SP412",
            f"a weight of {source.torch} is too large for {target.torch}, it would become infinite",
            help="choose --params-dtype bf16 or fp32, or leave the flag out to keep the type",
        )
    return narrow


def _loses_range(source: DType, target: DType) -> bool:
    return target.size < source.size or (target is DType.F16 and source is not DType.F16)


def _infinities(bits: NDArray[Any], dtype: DType) -> int:
    values = _from_bfloat16(bits) if dtype is DType.BF16 else bits.view(_NUMPY[dtype])
    return int(np.isinf(values).sum())


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(f"u{values.itemsize}")


def _from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    rounded = ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
