"""Where weights come from: named tensors of which a part can be read without reading the rest.

A slice of every dimension says which part, with a start and a stop. ``seqpack.models.fill`` puts parts where they
belong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch

from seqpack.core.errors import CheckpointError

Where = tuple[slice, ...]
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class TensorSource(Protocol):
    """Tensors by the name they have in the model of transformers."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """None for a tensor that is not there."""

    def read(self, name: str, where: Where) -> torch.Tensor:
        """This part of a tensor, on the host; the caller copies from it and keeps nothing."""


class MemorySource:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def read(self, name: str, where: Where) -> torch.Tensor:
        return self._tensors[name].detach()[where]


class FileSource:
    """The safetensors files of a directory. One is open at a time: what is mapped counts as memory of the process."""

    def __init__(self, directory: Path) -> None:
        self._files = _files_of(directory)
        self._path: Path | None = None
        self._open: Any = None

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._slice(name).get_shape()) if name in self._files else None

    def read(self, name: str, where: Where) -> torch.Tensor:
        part = self._slice(name)
        read: torch.Tensor = part[where] if where else part[...]
        return read

    def _slice(self, name: str) -> Any:
        from safetensors import safe_open

        path = self._files[name]
        if path != self._path:
            self._open, self._path = None, None
            self._open, self._path = safe_open(path, framework="pt"), path
        return self._open.get_slice(name)


class ExpertsSource:
    """Files that hold every expert by itself, for models that hold all experts of a layer in one tensor.

    ``experts.gate_up_proj`` is ``[E, 2 F, D]``: for each expert the rows of its gate, then those of its up matrix.
    """

    def __init__(self, files: TensorSource, family: str, num_experts: int) -> None:
        self._files = files
        self._num_experts = num_experts
        self._block, self._parts = _EXPERT_FILES[family]

    def shape(self, name: str) -> tuple[int, ...] | None:
        pattern = self._patterns(name)
        if pattern is None:
            return self._files.shape(self._renamed(name))
        shapes = [self._files.shape(part.format(expert=0)) for part in pattern]
        others = [self._files.shape(pattern[0].format(expert=self._num_experts - 1))]
        if None in shapes or None in others:
            return None
        rows, columns = sum(shape[0] for shape in shapes if shape), shapes[0][1]  # type: ignore[index]
        return self._num_experts, rows, columns

    def read(self, name: str, where: Where) -> torch.Tensor:
        pattern = self._patterns(name)
        if pattern is None:
            return self._files.read(self._renamed(name), where)
        experts, rows, columns = where
        return torch.stack(
            [
                self._rows([part.format(expert=expert) for part in pattern], rows, columns)
                for expert in range(experts.start, experts.stop)
            ]
        )

    def _rows(self, names: list[str], rows: slice, columns: slice) -> torch.Tensor:
        """Rows of matrices that lie below each other."""
        found, first = [], 0
        for name in names:
            height = self._files.shape(name)[0]  # type: ignore[index]
            start, stop = max(rows.start - first, 0), min(rows.stop - first, height)
            if start < stop:
                found.append(self._files.read(name, (slice(start, stop), columns)))
            first += height
        return torch.cat(found)

    def _patterns(self, name: str) -> list[str] | None:
        """Names of the files' tensors that make up one of the model's, with ``{expert}``; None for any other tensor."""
        block, _, last = name.rpartition(".mlp.experts.")
        if last not in self._parts:
            return None
        return [f"{block}.{self._block}.experts.{{expert}}.{part}.weight" for part in self._parts[last]]

    def _renamed(self, name: str) -> str:
        return name.replace(".mlp.", f".{self._block}.")


class RandomSource:
    """Random weights as ``model``, one of transformers without memory, draws them for a module by itself.

    Every module draws from a generator of its own, that depends on ``seed`` and its name: whoever needs a part of it
    gets the same numbers, on any number of ranks. They are numbers of ``dtype``.
    """

    def __init__(self, model: Any, dtype: torch.dtype, seed: int) -> None:
        self._model, self._dtype, self._seed = model, dtype, seed
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._drawn: tuple[str, dict[str, torch.Tensor]] = "", {}

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._shapes.get(name)

    def read(self, name: str, where: Where) -> torch.Tensor:
        module, _, last = name.rpartition(".")
        if self._drawn[0] != module:
            self._drawn = "", {}  # the memory of one module at a time
            self._drawn = module, self._draw(module)
        return self._drawn[1][last][where].to(self._dtype)

    def _draw(self, name: str) -> dict[str, torch.Tensor]:
        module = self._model.get_submodule(name)
        without_memory = dict(module._parameters)
        wide = torch.float64 if self._dtype is torch.float64 else torch.float32
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed_of(self._seed, name))
            for last, parameter in without_memory.items():
                if parameter is not None:
                    empty = torch.full(parameter.shape, torch.nan, dtype=wide)
                    module._parameters[last] = torch.nn.Parameter(empty, requires_grad=False)
            self._model._init_weights(module)
            drawn = {
                last: parameter.detach() for last, parameter in module._parameters.items() if parameter is not None
            }
        module._parameters.update(without_memory)
        assert not any(tensor.isnan().any() for tensor in drawn.values()), f"transformers does not initialise {name}"
        return drawn


def seed_of(seed: int, name: str) -> int:
    """A seed below 2 ** 63 for what has this name."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


# What stands in the files for ``mlp``, and the matrices of each expert.
_EXPERT_FILES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "qwen3_moe": ("mlp", {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}),
    "mixtral": ("block_sparse_moe", {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}),
}


def file_source(directory: Path, config: Any) -> TensorSource:
    """The files of a model, under the names of its modules."""
    return by_module(FileSource(directory), config)


def by_module(files: TensorSource, config: Any) -> TensorSource:
    """Tensors that are named as in files, under the names of modules."""
    if config.model_type not in _EXPERT_FILES:
        return files
    num_experts = getattr(config, "num_experts", None) or config.num_local_experts
    return ExpertsSource(files, config.model_type, num_experts)


def _files_of(directory: Path) -> dict[str, Path]:
    """Which file each tensor is in; empty without safetensors files."""
    from safetensors import safe_open

    if (directory / INDEX_FILE).is_file():
        try:
            names = json.loads((directory / INDEX_FILE).read_bytes())["weight_map"]
            return {name: directory / file for name, file in names.items()}
        except (ValueError, KeyError, AttributeError) as error:
            path = directory / INDEX_FILE
            raise CheckpointError("SP206", f"{path} is not an index: {error!r}", help="get the file again") from error
    path = directory / SINGLE_FILE
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        return dict.fromkeys(file.keys(), path)
