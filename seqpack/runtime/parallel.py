"""How the processes of a run share the work, as a value that exists before any process group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

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
class ParallelPlan:
    """Degrees whose product is the number of processes. ``dp_shard`` ranks hold one copy of the model in pieces."""

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1

    @classmethod
    def of(cls, world_size: int, *, dp_replicate: int = 1, cp: int = 1, tp: int = 1, pp: int = 1) -> ParallelPlan:
        """``dp_shard`` is what the other degrees leave; SP601 if they do not divide ``world_size``.

        Tensor and pipeline parallelism are refused for now.
        """
        for flag, degree in (("--tp", tp), ("--pp", pp)):
            if degree > 1:
                raise ConfigError(
                    "SP602",
                    f"{flag} {degree} is not there yet",
                    help="leave it out: data parallel ranks share the model",
                )
        fixed = dp_replicate * cp * tp * pp
        if world_size % fixed:
            raise ConfigError(
                "SP601",
                f"{world_size} processes cannot be divided by --dp-replicate {dp_replicate} x --cp {cp} x --tp {tp} "
                f"x --pp {pp}",
                help="start another number of processes, or change one of these",
            )
        return cls(dp_replicate, world_size // fixed, cp, tp, pp)

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

    def __str__(self) -> str:
        degrees = [(f"dp {self.dp_shard}", self.dp_shard)] + [
            (f"{name} {getattr(self, name)}", getattr(self, name)) for name in ("dp_replicate", "cp", "tp", "pp")
        ]
        return " · ".join(text for text, degree in degrees if degree > 1) or "one process"
