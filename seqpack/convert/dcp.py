"""``.metadata`` of torch.distributed.checkpoint, written and read without torch.

It is a pickle that says of each tensor its shape and type and into which boxes it is cut, and of each box the file
and the bytes in it that are one stream of ``torch.save``. Blobs (``BytesStorageMetadata``) are streams too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seqpack.convert.dtypes import BY_TORCH, DType
from seqpack.convert.torch_pickle import PickledCall, PickledObject, TorchDType, Unpickler, dumps
from seqpack.core.errors import CheckpointError

METADATA = ".metadata"
_MODULE = "torch.distributed.checkpoint.metadata"
_FILES = "torch.distributed.checkpoint.filesystem"


class Box(NamedTuple):
    """Where a part of a tensor begins and how long it is, by dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Stream(NamedTuple):
    """Bytes of a file of the checkpoint's folder."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor; ``dtype`` is None if it is of no floating-point type."""

    shape: tuple[int, ...]
    dtype: DType | None
    parts: dict[Box, Stream]


@dataclass(frozen=True, slots=True)
class Metadata:
    """Tensors and blobs by name."""

    tensors: dict[str, StoredTensor]
    blobs: dict[str, Stream]


def write_metadata(path: Path, metadata: Metadata) -> None:
    state: dict[str, Any] = {}
    storage: dict[PickledObject, PickledObject] = {}
    for name, tensor in metadata.tensors.items():
        assert tensor.dtype is not None
        chunks = [
            PickledObject(_MODULE, "ChunkStorageMetadata", {"offsets": _size(box.offsets), "sizes": _size(box.sizes)})
            for box in tensor.parts
        ]
        description = {"properties": _properties(tensor.dtype), "size": _size(tensor.shape), "chunks": chunks}
        state[name] = PickledObject(_MODULE, "TensorStorageMetadata", description)
        storage |= {_index(name, _size(box.offsets)): _storage(stream) for box, stream in tensor.parts.items()}
    for name, stream in metadata.blobs.items():
        state[name] = PickledObject(_MODULE, "BytesStorageMetadata", {})
        storage[_index(name, None)] = _storage(stream)
    fields = {
        "state_dict_metadata": state,
        "planner_data": None,
        "storage_data": storage,
        "storage_meta": None,
    }
    path.write_bytes(dumps(PickledObject(_MODULE, "Metadata", fields)))


def _index(name: str, offsets: Any) -> PickledObject:
    return PickledObject(_MODULE, "MetadataIndex", {"fqn": name, "offset": offsets, "index": None})


def _storage(stream: Stream) -> PickledObject:
    fields = {"relative_path": stream.file, "offset": stream.offset, "length": stream.length}
    return PickledObject(_FILES, "_StorageInfo", fields)


def _size(sizes: tuple[int, ...]) -> PickledCall:
    return PickledCall("torch", "Size", (sizes,))


def _properties(dtype: DType) -> PickledObject:
    """dtype, layout, requires_grad, memory format (0 is contiguous) and pin_memory, in the order torch sets them."""
    layout = PickledCall("torch.serialization", "_get_layout", ("torch.strided",))
    memory_format = PickledCall(_MODULE, "_MEM_FORMAT_ENCODING", (0,))
    return PickledObject(_MODULE, "TensorProperties", (TorchDType(dtype.torch), layout, False, memory_format, False))


def read_metadata(path: Path) -> Metadata:
    """CheckpointError SP401 if there is no such file or it is damaged."""
    try:
        return _metadata(_Unpickler(io.BytesIO(path.read_bytes())).load())
    except FileNotFoundError as error:
        raise CheckpointError(
            "SP401", f"{path} is missing", help="copy the checkpoint again; without that file it is unfinished"
        ) from error
    # a damaged pickle can fail in any way: AttributeError, IndexError, KeyError, UnicodeDecodeError ...
    except Exception as error:
        raise CheckpointError(
            "SP401",
            f"{path} cannot be read, it may be damaged: {type(error).__name__}: {error}",
            help="copy or save the checkpoint again",
        ) from error


class _Fields:
    """An object of torch.distributed.checkpoint: what was pickled of it."""

    def __new__(cls, *ignored: Any) -> _Fields:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Blob(_Fields):
    """What stands for the description of a value that is no tensor."""


class _Unpickler(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in (_MODULE, _FILES):
            return _Blob if name == "BytesStorageMetadata" else _Fields
        return super().find_class(module, name)


def _metadata(found: _Fields) -> Metadata:
    streams = {
        # torch leaves out the offset of a blob
        (index.state["fqn"], index.state.get("offset")): Stream(
            *(storage.state[field] for field in ("relative_path", "offset", "length"))
        )
        for index, storage in found.state["storage_data"].items()
    }
    metadata = Metadata({}, {})
    for name, described in found.state["state_dict_metadata"].items():
        if isinstance(described, _Blob):
            metadata.blobs[name] = streams[name, None]
            continue
        dtype = described.state["properties"].state[0]
        boxes = [Box(chunk.state["offsets"], chunk.state["sizes"]) for chunk in described.state["chunks"]]
        # a rank that has nothing of a tensor may have written that
        boxes = [box for box in boxes if all(box.sizes)]
        metadata.tensors[name] = StoredTensor(
            described.state["size"],
            BY_TORCH.get(dtype.name) if isinstance(dtype, TorchDType) else None,
            {box: streams[name, box.offsets] for box in boxes},
        )
    return metadata
