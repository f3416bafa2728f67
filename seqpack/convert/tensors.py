"""Tensors of a layout, and which piece of which Hugging Face tensor lies where in them.

The Hugging Face tensors of a model are the common ground: every layout says of each of its tensors which rectangles of
them it holds. A tensor is seen as a matrix: all dimensions but the last are rows, and a vector has one column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

from seqpack.convert.dtypes import DType


class Piece(NamedTuple):
    """A rectangle of a Hugging Face tensor, and the place of its first element in the tensor that holds it.

    ``transposed``: its rows are columns there. ``is_padding``: a copy that only fills up, which nobody reads back.
    """

    name: str
    row: int
    column: int
    rows: int
    columns: int
    at_row: int
    at_column: int
    transposed: bool = False
    is_padding: bool = False

    @property
    def height(self) -> int:
        """Rows it takes where it lies."""
        return self.columns if self.transposed else self.rows

    @property
    def width(self) -> int:
        return self.rows if self.transposed else self.columns


class Key(NamedTuple):
    """A tensor of a layout: its file, relative to the layout's folder, and its name in that file."""

    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.file}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a layout and what it holds.

    ``grid`` is the matrix it is in memory, where that does not follow from its shape.
    """

    key: Key
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    grid: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        return self.grid[0] if self.grid else matrix(self.shape)[0]

    @property
    def columns(self) -> int:
        return self.grid[1] if self.grid else matrix(self.shape)[1]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor lie: row by row, ``row_stride`` elements from one row to the next."""

    path: Path
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    row_stride: int

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.size


def on_grid(place: Place, tensor: Tensor) -> Place:
    """The place of a tensor that is another matrix in memory than its shape says."""
    return replace(place, row_stride=tensor.columns) if tensor.grid else place


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns: ``[n]`` -> (n, 1), ``[a, b, c]`` -> (a * b, c)."""
    return (prod(shape), 1) if len(shape) < 2 else (prod(shape[:-1]), shape[-1])
