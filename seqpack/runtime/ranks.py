"""The processes of one run, as a value: which one this is, and what they do together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from seqpack.core.errors import ConfigError, DistributedError
from seqpack.runtime.interfaces import check_interfaces

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "cpu:gloo,npu:hccl"}
TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others: saving a checkpoint and reading a model may take one of them a while."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number ``rank`` of ``size``, ``local`` on its machine; with one process nothing is exchanged."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Every value added up over all ranks, in float64: counts of tokens are more than float32 can count."""
        if self.size == 1:
            return list(values)
        # An NPU has no float64; its group has gloo beside HCCL, for the host.
        tensor = torch.tensor(values, dtype=torch.float64, device="cpu" if device.type == "npu" else device)
        dist.all_reduce(tensor)
        added: list[float] = tensor.tolist()
        return added

    def max(self, value: float, device: torch.device) -> float:
        """The largest value of all ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float32, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in their order; any object that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self, group: dist.ProcessGroup | None = None) -> None:
        """Return when all ranks are here; in a thread, with a group of its own."""
        if self.size > 1:
            dist.barrier(group)


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """Which process this is, from what torchrun and ``--nproc`` set; one process without it."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Ranks()
    try:
        numbers = (environment["RANK"], environment["WORLD_SIZE"], environment.get("LOCAL_RANK", "0"))
        ranks = Ranks(*map(int, numbers))
    except ValueError as error:
        raise ConfigError(
            "SP601", f"RANK and WORLD_SIZE are no numbers: {error}", help="start with torchrun"
        ) from error
    if not 0 <= ranks.rank < ranks.size:
        raise ConfigError(
            "SP601", f"RANK {ranks.rank} is not one of WORLD_SIZE {ranks.size}", help="start with torchrun"
        )
    return ranks


@contextmanager
def joined(ranks: Ranks, device_type: str, *, init_method: str | None = None) -> Iterator[None]:
    """The process group of all ranks, for as long as the block runs; nothing with one process."""
    if ranks.size == 1:
        yield
        return
    check_interfaces(os.environ)
    if device_type == "npu":  # HCCL gives up after two minutes, when a rank may still read a large model
        os.environ.setdefault("HCCL_CONNECT_TIMEOUT", str(int(TIMEOUT.total_seconds())))
    dist.init_process_group(
        BACKENDS[device_type], init_method=init_method, rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT
    )
    try:
        yield
        dist.barrier()  # a rank that leaves early takes its connections with it
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise DistributedError(
            "SP603", f"rank {ranks.rank} lost the others: {str(error).splitlines()[0]}", help="see why they ended"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection closed"))
