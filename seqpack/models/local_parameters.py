"""Modules of transformers whose parameters lie in pieces on several ranks and are computed with where they lie.

A parameter stays a ``DTensor``, so that FSDP shards it further and checkpoints know its place. In ``forward`` the
module's own code reads it as this rank's plain tensor: nothing is dispatched through DTensor while computing, which
would cost more than the exchanges themselves in small layers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement


def distribute(module: nn.Module, mesh: DeviceMesh, placements: Mapping[str, list[Placement]]) -> None:
    """Keep this rank's piece of the named parameters, which every rank has whole; ``forward`` then reads the pieces."""
    for name, placed in placements.items():
        parameter = module._parameters[name]
        assert parameter is not None
        pieces = distribute_tensor(parameter.data, mesh, placed, src_data_rank=None)
        module._parameters[name] = nn.Parameter(pieces, requires_grad=parameter.requires_grad)
    read_locally(module, *placements)


def read_locally(module: nn.Module, *names: str) -> None:
    """Have ``self.weight``, or whatever is named, be this rank's piece of the parameter inside ``forward``."""
    kind: Any = type(module)
    module.__class__ = _reads_locally(kind, names)


def local(parameter: torch.Tensor) -> torch.Tensor:
    """This rank's piece of a parameter, as a plain tensor; its gradient goes to the parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@cache
def _reads_locally(kind: Any, names: tuple[str, ...]) -> Any:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Found before what nn.Module keeps as parameters; only for this call, as FSDP looks for the parameters there.
        self.__dict__.update({name: local(getattr(self, name)) for name in names})
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            for name in names:
                del self.__dict__[name]

    return type(kind.__name__, (kind,), {"forward": forward})
