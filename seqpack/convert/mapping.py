"""One layout seen as the other: tensors are joined or taken apart when they are read, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from seqpack.convert.dims import ModelDims
from seqpack.convert.families import Join, Parameter
from seqpack.core.errors import CheckpointError

MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """Named tensors of which only those in use are in memory."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]: ...

    def read(self, name: str) -> torch.Tensor: ...


class AsMegatron:
    """Hugging Face tensors under Megatron's names, joined."""

    def __init__(self, huggingface: TensorSource, plan: Sequence[Parameter], dims: ModelDims) -> None:
        self._source, self._dims = huggingface, dims
        self._parameters = {parameter.megatron: parameter for parameter in plan}
        self.specs = {p.megatron: TensorSpec(p.shape, _common_dtype(p, huggingface)) for p in plan}

    def read(self, name: str) -> torch.Tensor:
        parameter = self._parameters[name]
        return join([self._source.read(part) for part in parameter.huggingface], parameter.join, self._dims)


class AsHuggingFace:
    """Megatron tensors under Hugging Face's names, taken apart."""

    def __init__(self, megatron: TensorSource, plan: Sequence[Parameter], dims: ModelDims) -> None:
        self._source, self._dims = megatron, dims
        self._places = {name: (p, i) for p in plan for i, name in enumerate(p.huggingface)}
        self.specs = {
            name: TensorSpec(p.shapes[i], megatron.specs[p.megatron].dtype) for name, (p, i) in self._places.items()
        }

    def read(self, name: str) -> torch.Tensor:
        parameter, index = self._places[name]
        return split(self._source.read(parameter.megatron), parameter.join, index, self._dims)


def join(parts: Sequence[torch.Tensor], how: Join, dims: ModelDims) -> torch.Tensor:
    """Rows of the parts in Megatron's order; q ``[heads * d, ...]``, k and v ``[groups * d, ...]`` for ``Join.QKV``."""
    if how is Join.QKV:
        return torch.cat([_by_group(part, dims) for part in parts], dim=1).flatten(0, 1)
    return torch.cat(list(parts)) if how is Join.STACK else parts[0]


def split(joined: torch.Tensor, how: Join, index: int, dims: ModelDims) -> torch.Tensor:
    """Part number ``index`` of a joined tensor; only that part is copied."""
    if how is Join.QKV:
        rows = [dims.heads_per_group * dims.head_dim, dims.head_dim, dims.head_dim]
        return _by_group(joined, dims).split_with_sizes(rows, dim=1)[index].flatten(0, 1)
    return joined.chunk(2)[index] if how is Join.STACK else joined


def check_parameters(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorSpec], *, where: str, hint: str = ""
) -> None:
    """CheckpointError unless ``found`` has exactly the expected names (SP403) and shapes (SP404)."""
    missing = [name for name in expected if name not in found]
    left_over = [name for name in found if name not in expected]
    if missing or left_over:
        problems = [f"misses {_listed(missing)}"] if missing else []
        problems += [f"has {_listed(left_over)}, for which the other layout has no place"] if left_over else []
        raise CheckpointError(
            "SP403",
            f"{where} {' and '.join(problems)}",
            help=hint or "check that config.json belongs to these weights",
        )
    wrong = [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if found[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(
            "SP404", f"{where}: {_listed(wrong)}", help="check that config.json belongs to these weights"
        )


def _by_group(tensor: torch.Tensor, dims: ModelDims) -> torch.Tensor:
    """``[rows, ...]`` -> ``[groups, rows of one group, ...]``."""
    return tensor.reshape(dims.num_groups, -1, *tensor.shape[1:])


def _common_dtype(parameter: Parameter, source: TensorSource) -> torch.dtype:
    dtypes = {source.specs[name].dtype for name in parameter.huggingface}
    if len(dtypes) > 1:
        raise CheckpointError(
            "SP404",
            f"{_listed(parameter.huggingface)} differ in dtype ({', '.join(sorted(map(str, dtypes)))}), "
            f"but {parameter.megatron} holds all of them",
            help="save the model again in one dtype",
        )
    return dtypes.pop()


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more
