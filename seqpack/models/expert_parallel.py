"""Experts spread over ranks: tokens travel to the rank that has their expert, and back.

On the mesh of the experts, ``ep`` counts the ranks that read rows of their own and send each other tokens, ``tp`` those
that hold the same tokens and share the experts of their ``ep`` rank; the second kind needs no exchange here, as what
its ranks give is added up after the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard

from seqpack.core.errors import ConfigError
from seqpack.models.local_parameters import distribute, local
from seqpack.models.roles import ROLES, Role
from seqpack.runtime.collectives import exchange_rows

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement

FLAG = "--expert-model-parallel-size"
AXIS = "ep"
WEIGHTS = ("gate_up_proj", "down_proj")


def has_experts(config: Any) -> bool:
    """Whether some layer is a mixture of experts, in whatever family."""
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def num_experts(config: Any) -> int | None:
    """Experts of the layers that have some; None for a model without."""
    if Role.ROUTER not in ROLES.get(config.model_type, {}):
        return None
    return int(getattr(config, "num_experts", None) or config.num_local_experts)


def check_expert_parallel(config: Any, size: int, tensor_size: int) -> None:
    """ConfigError SP610 if the experts of this model cannot be shared out."""
    if size == 1:
        return
    experts = num_experts(config)
    if experts is None:
        families = ", ".join(family for family, roles in ROLES.items() if Role.ROUTER in roles)
        raise ConfigError(
            "SP610",
            f"{FLAG} {size}: a model of family {config.model_type!r} has no experts",
            help=f"leave it out; families with experts: {families}",
        )
    if experts % (size * tensor_size):
        beside = f" x --tensor-model-parallel-size {tensor_size}" if tensor_size > 1 else ""
        raise ConfigError(
            "SP610",
            f"{FLAG} {size}{beside}: {experts} experts cannot be shared out among so many processes",
            help="choose another number",
        )


def spread_experts(model: Any, mesh: DeviceMesh) -> None:
    """Keep this rank's experts of every layer of ``model``; ``mesh`` has the axes ``ep``, ``tp`` or both."""
    for module in list(model.modules()):
        if all(name in module._parameters for name in WEIGHTS):
            placements: dict[str, list[Placement]] = {name: [Shard(0)] * mesh.ndim for name in WEIGHTS}
            module.num_experts //= mesh.size()
            distribute(module, mesh, placements)
            module.forward = _Dispatch(module.forward, module.num_experts, mesh)


class _Dispatch:
    """Stands where the ``forward`` of all experts stood: ``[T, D]``, experts and weights ``[T, C]`` -> ``[T, D]``.

    E experts are on each rank; expert e is on the rank e // E of the mesh, the axis ``tp`` counting fastest.
    """

    def __init__(self, own_experts: Any, num_own: int, mesh: DeviceMesh) -> None:
        names = mesh.mesh_dim_names or ()
        self._own_experts = own_experts
        self._num_own = num_own
        self._group = mesh.get_group(AXIS) if AXIS in names else None
        self._num_sharers = mesh.size() // (mesh.size(names.index(AXIS)) if AXIS in names else 1)
        self._sharer = mesh.get_local_rank(names.index("tp")) if "tp" in names else 0

    def __call__(self, hidden_TD: torch.Tensor, chosen_TC: torch.Tensor, weights_TC: torch.Tensor) -> torch.Tensor:
        rank_TC = chosen_TC // self._num_own
        token_S, slot_S = (rank_TC % self._num_sharers == self._sharer).nonzero(as_tuple=True)
        expert_S = chosen_TC[token_S, slot_S]
        order = expert_S.argsort(stable=True)
        token_S, slot_S, expert_S = token_S[order], slot_S[order], expert_S[order]
        result_SD = self._compute(hidden_TD[token_S], expert_S)
        result_SD = result_SD * weights_TC[token_S, slot_S, None]
        return torch.zeros_like(hidden_TD).index_add_(0, token_S, result_SD.to(hidden_TD.dtype))

    def _compute(self, hidden_SD: torch.Tensor, expert_S: torch.Tensor) -> torch.Tensor:
        """What each token's expert makes of it; ``expert_S`` rises."""
        if self._group is None:
            return self._apply(hidden_SD, expert_S % self._num_own)
        size = dist.get_world_size(self._group)
        target_S = expert_S // (self._num_own * self._num_sharers)
        sent, received = self._counts(torch.bincount(target_S, minlength=size))
        received_MD = exchange_rows(hidden_SD, sent, received, self._group)
        expert_M = exchange_rows(expert_S[:, None], sent, received, self._group)[:, 0] % self._num_own
        return exchange_rows(self._apply(received_MD, expert_M), received, sent, self._group)

    def _counts(self, sent: torch.Tensor) -> tuple[list[int], list[int]]:
        """How many rows go to and come from each rank. The host waits here: it has to know to receive them."""
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group)
        both: list[list[int]] = torch.stack([sent, received]).tolist()
        return both[0], both[1]

    def _apply(self, hidden_MD: torch.Tensor, expert_M: torch.Tensor) -> torch.Tensor:
        ones_M1 = hidden_MD.new_ones(len(hidden_MD), 1)
        if len(hidden_MD):
            result_MD: torch.Tensor = self._own_experts(hidden_MD, expert_M[:, None], ones_M1)
            return result_MD
        # No token came. The other ranks wait for this one on the way back, so that there has to be a way.
        module = self._own_experts.__self__
        return hidden_MD * sum(local(getattr(module, name)).flatten()[0] for name in WEIGHTS)
