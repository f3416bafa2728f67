"""Hugging Face model directories: safetensors, whole or sharded, and the small files that belong to the model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from seqpack.convert.copying import contiguous_place
from seqpack.convert.dtypes import BY_SAFETENSORS, DType
from seqpack.convert.layouts import Draft
from seqpack.convert.mcore import Model
from seqpack.convert.tensors import Key, Piece, Place, Tensor, matrix
from seqpack.core.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

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


def read_places(folder: Path) -> dict[str, Place]:
    """Where every tensor of a model directory lies.

    CheckpointError if a file is missing, cut short, or does not hold what the index says.
    """
    places: dict[str, Place] = {}
    index = _read_index(folder)
    for file_name in sorted(set(index.values())) if index else [WEIGHTS]:
        path = folder / file_name
        if not path.is_file():
            raise CheckpointError(
                "SP401", f"{path} is missing", help="download the model again, as safetensors (not .bin)"
            )
        for name, place in _read_header(path).items():
            if name in places:
                raise CheckpointError(
                    "SP401", f"{name} is in {path} and in another file", help="download the model again"
                )
            places[name] = place
    if index and index.keys() != places.keys():
        differing = ", ".join(sorted(index.keys() ^ places.keys())[:5])
        raise CheckpointError(
            "SP401",
            f"{folder / INDEX} and the files it lists differ in {differing}",
            help="download the model again",
        )
    return places


def huggingface_tensors(model: Model) -> list[Tensor]:
    """Every tensor of a model directory, in the order of computation; none has a file yet."""
    return [_whole(name, shape) for name, shape in model.huggingface()]


def tied_head(model: Model) -> Tensor:
    """The head of a tied model, which some programs store although it is the embedding."""
    shape = (model.dims.vocab_size, model.dims.hidden_size)
    return Tensor(Key("", HEAD), shape, (Piece(EMBEDDING, 0, 0, *shape, 0, 0),))


def create_safetensors(
    folder: Path, tensors: Sequence[Tensor], dtypes: Mapping[Key, DType], *, max_shard_bytes: int
) -> Draft:
    """Lay out files of at most ``max_shard_bytes`` (or one tensor), and an index if there are several.

    The format is written here and not by the safetensors package, which wants a whole file in memory.
    """
    sizes = {tensor.key: tensor.num_elements * dtypes[tensor.key].size for tensor in tensors}
    shards = _shards(tensors, sizes, dtypes, max_shard_bytes)
    places: dict[Key, Place] = {}
    weight_map: dict[str, str] = {}
    headers: dict[Path, bytes] = {}
    for number, shard in enumerate(shards, start=1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        headers[folder / name], in_file = _create_file(folder / name, shard, dtypes)
        places |= in_file
        weight_map |= dict.fromkeys((tensor.key.name for tensor in shard), name)

    def close(checksums: Mapping[Key, int]) -> None:
        for path, header in headers.items():
            with path.open("r+b") as file:
                file.write(header)
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    return Draft(places, close)


def copy_small_files(source: Path, destination: Path) -> None:
    """Copy configs and tokenizer files, as they are, so that ``destination`` needs only weights to be a model."""
    destination.mkdir(exist_ok=True)
    for pattern in SMALL_FILES:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, destination / path.name)


def set_dtype(folder: Path, dtypes: Iterable[DType]) -> None:
    """Let ``config.json`` name the type of the weights beside it: transformers loads them in that one."""
    names = {dtype.torch for dtype in dtypes}
    config = json.loads((folder / CONFIG).read_bytes())
    key = "dtype" if "dtype" in config else "torch_dtype"
    if len(names) == 1 and config.get(key) not in (None, *names):
        config[key] = names.pop()
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _whole(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(Key("", name), shape, (Piece(name, 0, 0, *matrix(shape), 0, 0),))


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


def _read_header(path: Path) -> dict[str, Place]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        places = {name: _read_entry(path, 8 + length, name, entry) for name, entry in entries.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size:,} bytes, its header wants {end:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "SP401", f"{path} cannot be read, it may be cut short: {error}", help="download or copy it again"
        ) from error
    return places


def _read_entry(path: Path, data: int, name: str, entry: Mapping[str, Any]) -> Place:
    if entry["dtype"] not in BY_SAFETENSORS:
        raise CheckpointError(
            "SP404",
            f"{name} in {path} is stored as {entry['dtype']}",
            help=f"quantized weights cannot be converted; known: {', '.join(BY_SAFETENSORS)}",
        )
    dtype, shape, (start, end) = BY_SAFETENSORS[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if end - start != prod(shape) * dtype.size:
        raise ValueError(f"{name} has {end - start:,} bytes, which does not fit its shape")
    return contiguous_place(path, data + start, dtype, shape)


def _shards(
    tensors: Sequence[Tensor], sizes: Mapping[Key, int], dtypes: Mapping[Key, DType], max_bytes: int
) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not shards or sizes[tensor.key] > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room -= sizes[tensor.key]
    # wide elements first, as the safetensors package does, so that each tensor starts at a multiple of its element size
    return [sorted(shard, key=lambda tensor: -dtypes[tensor.key].size) for shard in shards]


def _create_file(path: Path, tensors: Sequence[Tensor], dtypes: Mapping[Key, DType]) -> tuple[bytes, dict[Key, Place]]:
    """Make a file of full length; gives its header, which is written last, and the places of its tensors."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts: dict[Key, int] = {}
    end = 0
    for tensor in tensors:
        dtype = dtypes[tensor.key]
        starts[tensor.key], end = end, end + tensor.num_elements * dtype.size
        entries[tensor.key.name] = {
            "dtype": dtype.safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [starts[tensor.key], end],
        }
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    header = len(encoded).to_bytes(8, "little") + encoded
    with path.open("xb") as file:
        os.truncate(file.fileno(), len(header) + end)
    return header, {
        tensor.key: contiguous_place(path, len(header) + starts[tensor.key], dtypes[tensor.key], tensor.shape)
        for tensor in tensors
    }
