"""The processes of one run, as a value: which one this is, and what they do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number ``rank`` of ``size``; with one process nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Every value added up over all ranks, in float64 where the device has it."""
        if self.size == 1:
            return list(values)
        dtype = torch.float64 if device.type in ("cpu", "cuda") else torch.float32
        tensor = torch.tensor(values, dtype=dtype, device=device)
        dist.all_reduce(tensor)
        added: list[float] = tensor.tolist()
        return added

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.size > 1:
            dist.barrier()
