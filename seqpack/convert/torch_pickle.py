"""The pickle inside a file of ``torch.save``, written and read without torch, and without running anything it names.

``weights_only=True`` of torch reads what is written here: protocol 2, plain values, tensors and an argparse Namespace.
It would refuse what Megatron-LM and MindSpeed-LLM really save: enums of their own packages in ``args``, protocol 4, a
defaultdict for the model. Here every class outside a list becomes an inert Unknown.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from seqpack.convert.dtypes import BY_STORAGE, BY_TORCH, DType


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor as a pickle names it: number of its record in the archive, and how it lies in that record.

    ``offset`` and ``stride`` count elements; ``dtype`` is the name torch has for it, or None where that is unknown.
    """

    record: str
    dtype: DType | None
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None

    @property
    def row_stride(self) -> int | None:
        """Elements from one row of the matrix it is to the next; None if its rows are not contiguous."""
        wanted = contiguous_stride(self.shape)
        stride = wanted if self.stride is None else self.stride
        # a dimension of one element may have any stride
        differing = [i for i, n in enumerate(self.shape) if n > 1 and stride[i] != wanted[i]]
        if not differing:
            return self.shape[-1] if len(self.shape) > 1 else 1
        return stride[0] if differing == [0] and len(self.shape) == 2 and stride[0] >= self.shape[1] else None


@dataclass(frozen=True, slots=True)
class TorchDType:
    """``torch.bfloat16`` and the like, as a value."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class PickledObject:
    """An object to write: made without arguments, then given its state. It may be the key of a dict."""

    module: str
    name: str
    state: Any


@dataclass(frozen=True, slots=True)
class PickledCall:
    """What a function of some arguments gives, to write."""

    module: str
    name: str
    arguments: tuple[Any, ...]


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def dumps(state: Any) -> bytes:
    """A pickle of protocol 2, of plain values, ``Namespace`` and the classes of this module that stand for others."""
    return b"".join((b"\x80\x02", *_pickled(state), b"."))


def _pickled(value: Any) -> Iterable[bytes]:
    if isinstance(value, PickledTensor):
        yield from _pickled_tensor(value)
    elif isinstance(value, TorchDType):
        yield _global("torch", value.name)
    elif isinstance(value, argparse.Namespace):
        yield from (_global("argparse", "Namespace"), b")\x81", *_pickled(vars(value)), b"b")
    elif isinstance(value, PickledObject):
        yield from (_global(value.module, value.name), b")\x81", *_pickled(value.state), b"b")
    elif isinstance(value, PickledCall):
        yield from (_global(value.module, value.name), *_pickled(value.arguments), b"R")
    elif isinstance(value, dict):
        yield b"}("
        for key, item in value.items():
            yield from _pickled(key)
            yield from _pickled(item)
        yield b"u"
    elif isinstance(value, tuple | list):
        start, end = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
        yield start
        for item in value:
            yield from _pickled(item)
        yield end
    else:
        yield _pickled_scalar(value)


def _pickled_scalar(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    assert isinstance(value, str), f"{type(value).__name__} is not written into checkpoints"
    text = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(text)) + text


def _pickled_tensor(tensor: PickledTensor) -> Iterable[bytes]:
    assert tensor.dtype is not None
    size = 1
    for length in tensor.shape:
        size *= length
    yield _global("torch._utils", "_rebuild_tensor_v2")
    yield b"((" + _pickled_scalar("storage") + _global("torch", tensor.dtype.storage)
    yield from map(_pickled_scalar, (tensor.record, "cpu", size))
    yield b"tQ"
    yield from _pickled(tensor.offset)
    yield from _pickled(tensor.shape)
    yield from _pickled(contiguous_stride(tensor.shape))
    yield b"\x89" + _global("collections", "OrderedDict") + b")RtR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


class Unknown:
    """Stands for an object of a class that is not in the list; takes whatever pickle does to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Unknown:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Unknown:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _StorageKind:
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class _Storage:
    record: str
    dtype: DType | None


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *ignored: Any) -> PickledTensor:
    return PickledTensor(storage.record, storage.dtype, tuple(size), offset, tuple(stride))


def _rebuild_parameter(data: PickledTensor, *ignored: Any) -> PickledTensor:
    return data


ALLOWED: dict[tuple[str, str], Any] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("types", "SimpleNamespace"): types.SimpleNamespace,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    **{("builtins", kind.__name__): kind for kind in (dict, list, set, int)},
}


class Unpickler(pickle.Unpickler):
    """Reads what ``torch.save`` wrote; tensors become PickledTensors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and name in BY_TORCH:
            return TorchDType(name)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _StorageKind(BY_STORAGE.get(name))
        return Unknown

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, record = pid[:3]
        assert kind == "storage" and isinstance(storage, _StorageKind), pid
        return _Storage(str(record), storage.dtype)


def loads(data: bytes) -> Any:
    return Unpickler(io.BytesIO(data)).load()
