"""What the CUDA backends hand to their kernels; the kernels themselves run under the marker ``gpu`` only."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen

from seqpack.attention.cuda import (
    flash_attn_attention,
    missing_flash_attn,
    missing_torch_varlen,
    torch_varlen_attention,
)
from seqpack.attention.reference import reference_attention

CU_Q, CU_K = np.array([0, 3, 5], np.int32), np.array([0, 3, 9], np.int32)


class Kernel:
    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bounds: Any, **settings: Any) -> Any:
        self.shapes = [tuple(x.shape) for x in (q, k, v)]
        self.bounds, self.settings = bounds, settings
        lse_NT = torch.zeros(q.shape[1], q.shape[0])
        return (q * 2, lse_NT, None) if "causal" in settings else (q * 2, lse_NT)


def inputs() -> list[torch.Tensor]:
    return [torch.randn(1, heads, tokens, 8) for heads, tokens in ((4, 5), (2, 9), (2, 9))]


@pytest.mark.parametrize(("window", "sent"), [(None, (-1, 0)), (4, (3, 0))])
def test_torch_varlen(monkeypatch: pytest.MonkeyPatch, window: int | None, sent: tuple[int, int]) -> None:
    kernel, (q, k, v) = Kernel(), inputs()
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    out, lse = torch_varlen_attention(q, k, v, cu_q=CU_Q, cu_k=CU_K, scale=0.5, window=window)
    assert kernel.shapes == [(5, 4, 8), (9, 2, 8), (9, 2, 8)]
    assert [x.tolist() if isinstance(x, torch.Tensor) else x for x in kernel.bounds] == [[0, 3, 5], [0, 3, 9], 3, 6]
    assert (kernel.settings["window_size"], kernel.settings["enable_gqa"], kernel.settings["scale"]) == (
        sent,
        True,
        0.5,
    )
    assert torch.equal(out, q * 2)
    assert lse.shape == (1, 4, 5)


@pytest.mark.parametrize(("window", "sent"), [(None, (-1, -1)), (4, (3, 0))])
def test_flash_attn(monkeypatch: pytest.MonkeyPatch, window: int | None, sent: tuple[int, int]) -> None:
    kernel, (q, k, v) = Kernel(), inputs()
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=kernel))
    out, _ = flash_attn_attention(q, k, v, cu_q=CU_Q, cu_k=CU_K, scale=0.5, window=window)
    assert kernel.settings["causal"] is True
    assert kernel.settings["window_size"] == sent
    assert torch.equal(out, q * 2)


def test_what_is_missing_here_is_named() -> None:
    if not torch.cuda.is_available():
        assert missing_torch_varlen() == "needs a CUDA device"
        assert missing_flash_attn()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("attention", [torch_varlen_attention, flash_attn_attention])
def test_kernels_equal_the_reference(attention: Any, window: int | None) -> None:
    if attention is flash_attn_attention and missing_flash_attn():
        pytest.skip(missing_flash_attn())
    tensors = [x.to("cuda", torch.bfloat16).requires_grad_() for x in inputs()]
    found = [a(*tensors, cu_q=CU_Q, cu_k=CU_K, scale=0.5, window=window) for a in (attention, reference_attention)]
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted.to(ours.dtype), atol=2e-2, rtol=2e-2)
    gradients = [torch.autograd.grad(out.float().sum(), tensors) for out, _ in found]
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, atol=5e-2, rtol=5e-2)
