"""Every built-in backend against attention computed one segment at a time by torch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from seqpack.attention.contract import AttentionBackend
from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.reference import dense_mask
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.segments import Segments, cu_seqlens_from_lengths
from seqpack.core.types import MaskMode

SCALE = 0.3
LENGTHS = [5, 1, 37, 2, 70]


def qkv(heads: int, kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """As the layers make them: token-major memory, seen as ``[1, heads, T, 16]``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, sum(LENGTHS), n, 16) for n in (heads, kv_heads, kv_heads)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in tensors]


def one_by_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: list[int]) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(x[:, :, a:b] for x in (q, k, v)), is_causal=True, scale=SCALE
        )
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, 2)


@pytest.mark.parametrize("backend", BUILTIN_BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("mask", MaskMode)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
def test_output_and_gradients(
    backend: AttentionBackend, heads: int, kv_heads: int, mask: MaskMode, dtype: torch.dtype, tolerance: float
) -> None:
    segments = Segments(cu_seqlens_from_lengths(LENGTHS), mask)
    bounds = segments.cu_seqlens.tolist() if mask is MaskMode.BLOCK_CAUSAL else [0, sum(LENGTHS)]
    inputs = qkv(heads, kv_heads, dtype)
    weights = torch.linspace(-1, 1, sum(LENGTHS), dtype=dtype)[None, None, :, None]
    output = backend.load()(*inputs, segments=segments, scale=SCALE)
    expected = one_by_one(*inputs, bounds)
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)
    gradients = torch.autograd.grad((output * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=10 * tolerance, rtol=tolerance)


def test_flash_output_needs_no_copy_to_become_token_major() -> None:
    segments = Segments(cu_seqlens_from_lengths(LENGTHS))
    output = cpu_flash_attention(*qkv(4, 2, torch.float32), segments=segments, scale=SCALE)
    assert output.transpose(1, 2).is_contiguous()


def test_dense_mask_by_hand() -> None:
    cu_seqlens = cu_seqlens_from_lengths([2, 1])
    assert dense_mask(Segments(cu_seqlens)).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert dense_mask(Segments(cu_seqlens, MaskMode.CAUSAL)).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
