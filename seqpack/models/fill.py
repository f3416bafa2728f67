"""Putting weights where they belong: of every tensor, this process reads the part that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from seqpack.core.errors import CheckpointError

if TYPE_CHECKING:
    from seqpack.models.sources import TensorSource, Where


@torch.no_grad()
def fill(state: Mapping[str, torch.Tensor], source: TensorSource) -> None:
    """Copy ``source`` into the tensors of ``state``, in place; those in pieces on any mesh get their piece.

    Nothing is exchanged between ranks. Raises CheckpointError SP206, before anything is read, for tensors that
    ``source`` lacks or has in another shape.
    """
    if absent := lacking(state, source):
        raise CheckpointError(
            "SP206",
            f"{len(absent)} weights are missing or have another shape, the first is {absent[0]}",
            help="the weights belong to another config.json, or the directory is incomplete",
        )
    for name, tensor in state.items():
        piece, where = own_piece(tensor)
        if piece.numel():
            piece.copy_(source.read(name, where))


def lacking(state: Mapping[str, torch.Tensor], source: TensorSource) -> list[str]:
    """Names of the tensors that ``source`` does not have, or has in another shape."""
    return [name for name, tensor in state.items() if source.shape(name) != tuple(tensor.shape)]


def own_piece(tensor: torch.Tensor) -> tuple[torch.Tensor, Where]:
    """The part of a tensor that this process holds, and which part of the whole it is."""
    if not isinstance(tensor, DTensor):
        return tensor, tuple(slice(0, size) for size in tensor.shape)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    where = tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
    return tensor.to_local(), where
