"""What is tried in a process where the real torch_npu is imported: prints name -> error, empty if there was none.

Run by ``test_schema.py``; the functions called ``check_...`` are tried one by one.
"""

from __future__ import annotations

import json
import traceback
from typing import Any

import numpy as np
import torch
import torch_npu  # type: ignore[import-not-found]
from torch_npu.op_plugin.meta import _meta_registrations  # type: ignore[import-not-found]

from seqpack.attention.npu import NpuAttention, missing_npu_attention
from seqpack.attention.npu_cases import CASES, run_cases
from seqpack.core.segments import cu_seqlens_from_lengths as bounds
from seqpack.models.npu_kernels import rms_norm, rotate, swiglu
from tests.npu.emulator import OPERATORS, SCHEMAS, VERSIONS

# The shape function of attention asks the driver which NPU this is, to warn on one kind, unless it has warned already.
_meta_registrations._npu_fusion_attention_warning_printed = True
LIBRARY = torch.library.Library("npu", "IMPL")


def check_schemas_are_those_of_our_file() -> None:
    version = torch_npu.__version__.partition("+")[0]
    same_minor = [known for known in VERSIONS if known.split(".")[:2] == version.split(".")[:2]]
    assert same_minor, f"tests/golden/npu/schemas.json has no version like {version}"
    for name, text in SCHEMAS[same_minor[-1]].items():
        wanted = torch._C.parse_schema(f"npu::{text}")
        found = getattr(torch.ops.npu, name).default._schema
        assert _signature(found) == _signature(wanted), f"{found} is not {wanted}"


def check_attention_passes_the_dispatcher_with_right_numbers() -> None:
    """The real schemas, and behind them the numerical model as their kernels for the CPU."""
    for name in ("npu_fusion_attention", "npu_fusion_attention_grad"):
        LIBRARY.impl(name, _filling_in(OPERATORS[name], getattr(torch.ops.npu, name).default), "CPU")
    assert missing_npu_attention() == ""
    small = [case for case in CASES if sum(case.num_queries) < 1000]
    failed = [result for result in run_cases(NpuAttention(torch.ops.npu), cases=small) if not result.passed]
    assert failed == [], failed


def check_the_dispatcher_refuses_what_it_does_not_know() -> None:
    x = torch.empty(8, 2, 16, device="meta")
    for wrong in ({"attn_mask": x}, {"actual_seq_qlen": torch.tensor([8])}):
        try:
            torch.ops.npu.npu_fusion_attention(x, x, x, 2, "TND", **wrong)
        except RuntimeError:
            continue
        raise AssertionError(f"{wrong} was taken")


def check_shapes_of_attention() -> None:
    """The real shape functions, forward and backward: float16 types, windows, several calls, queries left out."""
    attention = NpuAttention(torch.ops.npu)
    few, many, short = bounds([3, 900]), bounds([1] * 1500), bounds([1, 900])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for cu_q, cu_k, window in ((few, few, None), (few, few, 64), (many, many, None), (few, short, None)):
            q, k, v = (_meta(n, int(cu[-1]), dtype) for n, cu in ((8, cu_q), (2, cu_k), (2, cu_k)))
            out, lse = attention(q, k, v, cu_q=cu_q, cu_k=cu_k, scale=0.1, window=window)
            grads = torch.autograd.grad(out.sum(), (q, k, v))
            assert (out.shape, out.dtype) == (q.shape, dtype)
            assert (lse.shape, lse.dtype) == (q.shape[:3], torch.float32)
            assert [(g.shape, g.dtype) for g in grads] == [(x.shape, x.dtype) for x in (q, k, v)]


def check_shapes_of_attention_to_all_keys() -> None:
    attention, cu_q, cu_k = NpuAttention(torch.ops.npu), bounds([3, 5]), bounds([6, 2])
    q, k, v = (_meta(n, 8, torch.bfloat16).detach() for n in (8, 2, 2))
    segments = {"cu_q": cu_q, "cu_k": cu_k, "scale": 0.1, "causal": False}
    out, lse = attention.forward(q, k, v, **segments)
    grads = attention.backward(out, q, k, v, out, lse, **segments)
    assert [x.shape for x in (out, *grads)] == [q.shape, q.shape, k.shape, v.shape]


def check_shapes_of_the_operators_around_attention() -> None:
    q, k = _meta(8, 7, torch.bfloat16).detach(), _meta(2, 7, torch.bfloat16).detach()
    cos = torch.empty(1, 7, 64, dtype=torch.bfloat16, device="meta")
    rotated = rotate(q, k, cos, cos)
    assert [x.shape for x in rotated] == [q.shape, k.shape]
    x, weight = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((1, 7, 64), (64,)))
    assert (rms_norm(x, weight, 1e-6).shape, rms_norm(x, weight, 1e-6).dtype) == (x.shape, x.dtype)
    assert swiglu(x, x).shape == x.shape


def check_names_that_the_device_backend_uses() -> None:
    names = "is_available device_count set_device set_compile_mode get_device_name synchronize max_memory_allocated"
    recomputation = "_initialized get_rng_state set_rng_state device manual_seed_all _is_in_bad_fork"
    assert [name for name in f"{names} {recomputation}".split() if not hasattr(torch.npu, name)] == []
    assert torch.get_device_module("npu") is torch.npu
    assert hasattr(torch.npu, "config")


def check_the_device_has_the_kernels_of_a_step() -> None:
    """Operators that would otherwise run on the host, a copy there and back for each call."""
    names = "_fused_adamw_ _foreach_norm.Scalar index_copy_ scatter_add_ index_select nonzero embedding_dense_backward"
    missing = [name for name in names.split() if not _has_kernel(f"aten::{name}")]
    assert missing == [], missing


def check_the_backend_of_collectives() -> None:
    import torch.distributed as dist

    assert dist.Backend.default_device_backend_map["npu"] == "hccl"


def check_transformers_works_beside_it() -> None:
    from transformers.models.qwen2 import modeling_qwen2

    assert modeling_qwen2.Qwen2Model


def _meta(heads: int, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.empty(1, tokens, heads, 64, dtype=dtype, device="meta")
    return x.transpose(1, 2).detach().requires_grad_()


def _has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "PrivateUse1")


def _signature(schema: Any) -> list[Any]:
    """Names, types and defaults; the first tensor is called otherwise in the file than in the dispatcher."""
    arguments = [(argument.name, str(argument.type), argument.default_value) for argument in schema.arguments]
    return [("", *arguments[0][1:]), *arguments[1:], [str(returned.type) for returned in schema.returns]]


def _filling_in(function: Any, operator: Any) -> Any:
    """``function`` behind the whole schema: arguments it does not model are at their defaults and left out."""
    known = {*function.__code__.co_varnames[: function.__code__.co_argcount], *(function.__kwdefaults__ or {})}
    names = [argument.name for argument in operator._schema.arguments]

    def call(*values: Any, **keywords: Any) -> Any:
        given = dict(zip(names, values, strict=False)) | keywords
        return function(**{name: value for name, value in given.items() if name in known})

    return call


def main() -> None:
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = ""
            except Exception:
                results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
