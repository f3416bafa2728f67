"""How the processes of a run share the work, as a value that exists before any process group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.options.train import ParallelOptions

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""Of the one mesh, the slowest first: ranks that talk most are neighbours."""


@dataclass(frozen=True, slots=True)
class RowShare:
    """The rows of a step that a process reads: share ``rank`` of ``size``.

    Processes of one context, tensor or pipeline group read the same rows; one of them, which ``counts``, reports these.
    """

    rank: int = 0
    size: int = 1
    counts: bool = True


@dataclass(frozen=True, slots=True)
class ExpertMeshes:
    """``spread``, with the axes ``ep`` and maybe ``tp``: ranks that have other experts; ``same``: the same experts."""

    spread: DeviceMesh
    same: DeviceMesh


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """Degrees whose product is the number of processes. ``dp_shard`` ranks hold one copy of the model in pieces.

    ``ep`` neighbours of the ``dp_shard`` x ``cp`` ranks, which have tokens of their own, spread the experts of a layer.
    """

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1

    @classmethod
    def of(
        cls, world_size: int, *, dp_replicate: int = 1, cp: int = 1, tp: int = 1, pp: int = 1, ep: int = 1
    ) -> ParallelPlan:
        """``dp_shard`` is what the other degrees leave; SP601 if they do not divide ``world_size``."""
        fixed = dp_replicate * cp * tp * pp
        if world_size % fixed:
            raise ConfigError(
                "SP601",
                f"{world_size} processes cannot be divided by --dp-replicate {dp_replicate} x --cp {cp} x --tp {tp} "
                f"x --pp {pp}",
                help="start another number of processes, or change one of these",
            )
        dp_shard = world_size // fixed
        if dp_shard * cp % ep:
            raise ConfigError(
                "SP601",
                f"--ep {ep}: experts are spread over processes that read tokens of their own, and {dp_shard * cp} of "
                "them, which the other degrees leave, cannot be divided by it",
                help="start another number of processes, or change --ep",
            )
        return cls(dp_replicate, dp_shard, cp, tp, pp, ep)

    @classmethod
    def from_options(cls, options: ParallelOptions, world_size: int) -> ParallelPlan:
        """The degrees that were asked for; SP601 as in ``of``."""
        return cls.of(
            world_size,
            dp_replicate=options.dp_replicate,
            cp=options.context_parallel_size,
            tp=options.tensor_model_parallel_size,
            pp=options.pipeline_model_parallel_size,
            ep=options.expert_model_parallel_size,
        )

    @property
    def world_size(self) -> int:
        return self.dp * self.cp * self.tp * self.pp

    @property
    def dp(self) -> int:
        """Ranks that read rows of their own."""
        return self.dp_replicate * self.dp_shard

    def row_share(self, rank: int) -> RowShare:
        """What process ``rank`` reads; ranks are numbered along ``AXES``, the last axis fastest."""
        stage, within_stage = divmod(rank, self.dp * self.cp * self.tp)
        data_rank, within_row = divmod(within_stage, self.cp * self.tp)
        return RowShare(data_rank, self.dp, counts=stage == within_row == 0)

    def mesh(self, device_type: str) -> DeviceMesh:
        """The one mesh of the run; needs the process group."""
        from torch.distributed.device_mesh import init_device_mesh

        shape = (self.pp, self.dp_replicate, self.dp_shard, self.cp, self.tp)
        return init_device_mesh(device_type, shape, mesh_dim_names=AXES)

    def token_mesh(self, mesh: DeviceMesh) -> DeviceMesh:
        """The ranks of one copy of the model that have tokens of their own, along one axis."""
        return mesh["dp_shard"] if self.cp == 1 else mesh["dp_shard", "cp"]._flatten("dp_shard_cp")

    def with_replicas(self, mesh: DeviceMesh, shards: DeviceMesh) -> DeviceMesh:
        """``shards``, and before it the axis of whole copies, if there are any."""
        from torch.distributed.device_mesh import DeviceMesh

        return DeviceMesh._concatenate([mesh["dp_replicate"], shards]) if self.dp_replicate > 1 else shards

    def expert_meshes(self, mesh: DeviceMesh) -> ExpertMeshes:
        """Where experts lie; every rank calls it, once."""
        from torch.distributed.device_mesh import DeviceMesh

        tokens = self.token_mesh(mesh)
        axes = tokens._unflatten(0, (tokens.size() // self.ep, self.ep), ("dp_outer", "ep"))
        spread = DeviceMesh._concatenate([axes["ep"], mesh["tp"]]) if self.tp > 1 else axes["ep"]
        return ExpertMeshes(spread, self.with_replicas(mesh, axes["dp_outer"]))

    def __str__(self) -> str:
        degrees = [(f"dp {self.dp_shard}", self.dp_shard)] + [
            (f"{name} {getattr(self, name)}", getattr(self, name)) for name in ("dp_replicate", "ep", "cp", "tp", "pp")
        ]
        return " · ".join(text for text, degree in degrees if degree > 1) or "one process"
