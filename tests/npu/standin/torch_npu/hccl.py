"""A process group "hccl" for the stand-in: gloo, on the same memory seen as the host's.

torch takes a group written in Python for the whole of "cpu:gloo,npu:hccl", so it serves tensors of the host as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _host(tensors: Any) -> Any:
    """Tensors, in lists of any depth, as CPU tensors of the same memory."""
    if isinstance(tensors, Tensor):
        return torch.ops.npu_standin.as_cpu(tensors)
    return [_host(tensor) for tensor in tensors]


class ProcessGroupHccl(dist.ProcessGroup):
    def __init__(self, options: Any) -> None:
        super().__init__(options.group_rank, options.group_size)
        self._name = options.group_id
        self._gloo = dist.ProcessGroupGloo(options.store, options.group_rank, options.group_size, options.timeout)

    def getBackendName(self) -> str:  # noqa: N802
        return "hccl"

    def getGroupName(self) -> str:  # noqa: N802
        return str(self._name)

    @property
    def group_name(self) -> str:
        return str(self._name)

    def allreduce(self, tensors: Any, *options: Any) -> Any:
        return self._gloo.allreduce(_host(tensors), *options)

    def broadcast(self, tensors: Any, options: Any) -> Any:
        return self._gloo.broadcast(_host(tensors), options)

    def allgather(self, out: Any, tensors: Any, *options: Any) -> Any:
        return self._gloo.allgather(_host(out), _host(tensors), *options)

    def _allgather_base(self, out: Tensor, tensor: Tensor, *options: Any) -> Any:
        return self._gloo._allgather_base(_host(out), _host(tensor))

    def allgather_into_tensor_coalesced(self, out: Any, tensors: Any, *options: Any) -> Any:
        return self._each(self._gloo._allgather_base, out, tensors)

    def all_gather_single(self, out: Tensor, tensor: Tensor, *options: Any, **keywords: Any) -> Any:
        return self._gloo._allgather_base(_host(out), _host(tensor))

    def reduce_scatter(self, out: Any, tensors: Any, options: Any) -> Any:
        return self._gloo.reduce_scatter(_host(out), _host(tensors), options)

    def _reduce_scatter_base(self, out: Tensor, tensor: Tensor, options: Any) -> Any:
        return self._gloo._reduce_scatter_base(_host(out), _host(tensor), options)

    def reduce_scatter_tensor_coalesced(self, out: Any, tensors: Any, options: Any) -> Any:
        return self._each(self._gloo._reduce_scatter_base, out, tensors, options)

    def reduce_scatter_single(self, out: Tensor, tensor: Tensor, *options: Any, **keywords: Any) -> Any:
        return self._gloo._reduce_scatter_base(_host(out), _host(tensor), *options)

    def alltoall_base(self, out: Tensor, tensor: Tensor, out_sizes: Any, sizes: Any, *options: Any) -> Any:
        return self._gloo.alltoall_base(_host(out), _host(tensor), out_sizes, sizes, *options)

    def send(self, tensors: Any, rank: int, tag: int) -> Any:
        return self._gloo.send(_host(tensors), rank, tag)

    def recv(self, tensors: Any, rank: int, tag: int) -> Any:
        return self._gloo.recv(_host(tensors), rank, tag)

    def barrier(self, *options: Any, **keywords: Any) -> Any:
        return self._gloo.barrier()

    def _each(self, exchange: Any, out: Any, tensors: Any, *options: Any) -> Any:
        work = None
        for each_out, tensor in zip(out, tensors, strict=True):
            work = exchange(_host(each_out), _host(tensor), *options)
            work.wait()
        return work


def register() -> None:
    dist.Backend.register_backend(
        "hccl", lambda options, _: ProcessGroupHccl(options), extended_api=True, devices=["npu"]
    )
