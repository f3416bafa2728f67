"""Hugging Face model directories: safetensors, whole or sharded, and the small files that belong to the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from seqpack.convert.mapping import TensorSource, TensorSpec
from seqpack.core.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

# named one by one: a model directory may also hold data, adapters or an optimizer, which a converted model must not get
SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.json",
    "*.jinja",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class HuggingFaceModel:
    """The tensors of a model directory, read where they lie; no more than one is in memory."""

    def __init__(self, folder: Path) -> None:
        """CheckpointError if a file is missing, cut short, or does not hold what the index says."""
        self.folder = folder
        self.specs: dict[str, TensorSpec] = {}
        self._files: dict[str, Any] = {}
        index = _read_index(folder)
        for file_name in sorted(set(index.values())) if index else [WEIGHTS]:
            self._add(folder / file_name)
        if index and index.keys() != self.specs.keys():
            differing = ", ".join(sorted(index.keys() ^ self.specs.keys())[:5])
            raise CheckpointError(
                "SP401",
                f"{folder / INDEX} and the files it lists differ in {differing}",
                help="download the model again",
            )

    def read(self, name: str) -> torch.Tensor:
        with _named(self.folder):
            tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def _add(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(
                "SP401", f"{path} is missing", help="download the model again, as safetensors (not .bin)"
            )
        with _named(path):
            file: Any = safe_open(str(path), framework="pt")
            for name in file.keys():  # noqa: SIM118 -- a safe_open is no mapping
                if name in self.specs:
                    raise CheckpointError(
                        "SP401", f"{name} is in {path} and in another file", help="download the model again"
                    )
                entry = file.get_slice(name)
                self.specs[name] = TensorSpec(tuple(entry.get_shape()), _dtype(entry.get_dtype(), name, path))
                self._files[name] = file


def write_safetensors(
    tensors: TensorSource, folder: Path, *, max_shard_bytes: int, advance: Callable[[int], None]
) -> None:
    """Write all tensors: files of at most ``max_shard_bytes`` (or one tensor), and an index if there are several.

    The format is written here and not by the safetensors package, which wants a whole file in memory.
    """
    shards = _shards(tensors, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file_name, names, tensors, advance)
        weight_map |= dict.fromkeys(names, file_name)
    if len(shards) > 1:
        total = sum(spec.num_bytes for spec in tensors.specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_small_files(source: Path, destination: Path) -> None:
    """Copy configs and tokenizer files, as they are, so that ``destination`` needs only weights to be a model."""
    destination.mkdir(exist_ok=True)
    for pattern in SMALL_FILES:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, destination / path.name)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's elements, row by row, without a copy if they already lie so."""
    return _flat_bytes(tensor).numpy().data


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in shape, dtype and every bit, so that a NaN equals itself and 0.0 is not -0.0."""
    return (one.shape, one.dtype) == (other.shape, other.dtype) and torch.equal(_flat_bytes(one), _flat_bytes(other))


def _flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _read_index(folder: Path) -> dict[str, str]:
    """Parameter name -> file name; empty if the directory has one weights file, which transformers prefers as well."""
    path = folder / INDEX
    if (folder / WEIGHTS).exists() or not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return {str(name): str(file_name) for name, file_name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "SP401", f"{path} is not an index of safetensors files", help="download it again"
        ) from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What safetensors and the file system complain about, as a CheckpointError that says where."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "SP401", f"{path} cannot be read, it may be cut short: {error}", help="download or copy it again"
        ) from error


def _dtype(name: str, tensor: str, path: Path) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(
            "SP404",
            f"{tensor} in {path} is stored as {name}",
            help=f"quantized weights cannot be converted; known: {', '.join(DTYPES)}",
        )
    return DTYPES[name]


def _shards(tensors: TensorSource, max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = 0
    for name, spec in tensors.specs.items():
        if not shards or spec.num_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= spec.num_bytes
    # wide elements first, as the safetensors package does, so that each tensor starts at a multiple of its element size
    return [sorted(shard, key=lambda name: -tensors.specs[name].dtype.itemsize) for shard in shards]


def _write_file(path: Path, names: list[str], tensors: TensorSource, advance: Callable[[int], None]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        spec = tensors.specs[name]
        start, end = end, end + spec.num_bytes
        header[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            tensor = tensors.read(name)
            assert (tuple(tensor.shape), tensor.dtype) == (tensors.specs[name].shape, tensors.specs[name].dtype)
            file.write(as_bytes(tensor))
            advance(1)
