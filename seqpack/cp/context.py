"""Context parallelism of a run in one object: batches go in whole, this rank's part of them comes out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from seqpack.core.segments import Segments
from seqpack.cp.plan import bounds

if TYPE_CHECKING:
    from seqpack.cp.algorithms import Planner
    from seqpack.cp.exchange import Wire
    from seqpack.cp.kernels import Kernels
    from seqpack.cp.protocol import Attend, ContextPlan
    from seqpack.runtime.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class SharedBatch:
    """See ``SharedRows``."""

    whole: Batch
    plan: ContextPlan
    wire: Wire
    kernels: Kernels
    part: Attend

    def attend(
        self, q_1NTH: torch.Tensor, k_1KTH: torch.Tensor, v_1KTH: torch.Tensor, *, scale: float, window: int | None
    ) -> torch.Tensor:
        out_TNH = self.part(q_1NTH, k_1KTH, v_1KTH, kernels=self.kernels, scale=scale, window=window)
        return out_TNH[None].contiguous()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.wire.sum(values)


@dataclass(frozen=True, slots=True, eq=False)
class ContextParallel:
    """What the ranks of one group share batches with."""

    planner: Planner
    wire: Wire
    kernels: Kernels
    device: torch.device

    def shard(self, batch: Batch) -> Batch:
        """This rank's tokens of a batch that all ranks of the group have; labels are those of the next token already.

        Raises DistributedError SP604 if the ranks do not have the same batch and the same plan for it.
        """
        plan = self.planner.plan(batch.segments.attended.cu_seqlens)
        self.wire.check_same(_digest(plan, batch), self.device)
        mine = torch.from_numpy(plan.placement.rows[self.wire.rank])
        return replace(
            batch,
            input_ids=batch.input_ids[:, mine],
            labels=batch.labels[:, mine],
            position_ids=batch.position_ids[:, mine],
            is_real=batch.is_real[:, mine],
            loss_weights=None if batch.loss_weights is None else batch.loss_weights[:, mine],
            segments=Segments(bounds(plan.placement.runs[self.wire.rank].lengths)),
            shared=SharedBatch(batch, plan, self.wire, self.kernels, plan.bind(self.wire, self.device)),
        )


def _digest(plan: ContextPlan, batch: Batch) -> bytes:
    """Eight bytes that tell plans and tokens apart."""
    found = hashlib.blake2b(plan.digest(), digest_size=8)
    found.update(batch.input_ids.numpy().tobytes())
    return found.digest()
