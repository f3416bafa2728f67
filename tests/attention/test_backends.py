"""Every backend that runs here against attention computed one segment at a time by torch."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.attention.contract import AttentionBackend
from seqpack.attention.cpu import cpu_flash_attention, cpu_varlen
from seqpack.attention.reference import dense_mask, reference_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.attention.tiles import tiles

SCALE = 0.3
LENGTHS = [5, 1, 37, 2, 70]
HERE = [backend for backend in BUILTIN_BACKENDS if "cpu" in backend.devices]
each_backend = pytest.mark.parametrize("backend", HERE, ids=lambda backend: backend.name)


def bounds(lengths: list[int]) -> np.ndarray:
    return np.array([0, *accumulate(lengths)], np.int32)


def qkv(
    heads: int, kv_heads: int, dtype: torch.dtype, queries: int = sum(LENGTHS), keys: int = sum(LENGTHS)
) -> list[torch.Tensor]:
    """As the layers make them: token-major memory, seen as ``[1, heads, T, 16]``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, length, n, 16) for n, length in ((heads, queries), (kv_heads, keys), (kv_heads, keys))]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in tensors]


def one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp of LENGTHS, each segment from the definition of attention."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    outputs, sums = [], []
    for a, b in pairwise(accumulate(LENGTHS, initial=0)):
        place = torch.arange(b - a)
        seen = place[:, None] >= place[None, :]
        if window is not None:
            seen &= place[:, None] - place[None, :] < window
        scores = (q[:, :, a:b] @ k[:, :, a:b].transpose(-1, -2) * SCALE).masked_fill(~seen, -math.inf)
        outputs.append(scores.softmax(-1) @ v[:, :, a:b])
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs, 2), torch.cat(sums, 2)


@each_backend
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 1, 8, 37, 64, 100])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
def test_output_and_gradients(
    backend: AttentionBackend, heads: int, kv_heads: int, window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    cu, inputs = bounds(LENGTHS), qkv(heads, kv_heads, dtype)
    weights = torch.linspace(-1, 1, sum(LENGTHS), dtype=dtype)[None, None, :, None]
    output, lse = backend.load()(*inputs, cu_q=cu, cu_k=cu, scale=SCALE, window=window)
    expected, expected_lse = one_by_one(*inputs, window)
    assert output.shape == expected.shape
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.to(dtype), expected_lse, atol=tolerance, rtol=tolerance)
    gradients = torch.autograd.grad((output * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=10 * tolerance, rtol=tolerance)


SEGMENTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)


@given(segments=SEGMENTS, window=st.none() | st.integers(1, 6))
@settings(max_examples=60)
def test_flash_equals_reference_where_queries_and_keys_differ(
    segments: list[tuple[int, int]], window: int | None
) -> None:
    cu_q, cu_k = (bounds(list(lengths)) for lengths in zip(*segments, strict=True))
    inputs = qkv(4, 2, torch.float64, int(cu_q[-1]), int(cu_k[-1]))
    found = [
        attention(*inputs, cu_q=cu_q, cu_k=cu_k, scale=SCALE, window=window)
        for attention in (cpu_flash_attention, reference_attention)
    ]
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-12, rtol=0)
    weights = torch.linspace(-1, 1, int(cu_q[-1]), dtype=torch.float64)[None, None, :, None]
    gradients = [torch.autograd.grad((output * weights).sum(), inputs) for output, _ in found]
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-11, rtol=0)


@each_backend
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_parts_of_the_keys_add_up_to_all_of_them(backend: AttentionBackend, heads: int, kv_heads: int) -> None:
    """Two segments of 5 queries behind 4 and 7 keys: these keys as one part, the causal squares as another."""
    assert backend.load_partial is not None
    partial = backend.load_partial()
    before, own = [4, 7], [5, 5]
    q, k, v = qkv(heads, kv_heads, torch.float64, 10, 21)
    whole, _ = reference_attention(q, k, v, cu_q=bounds(own), cu_k=bounds([9, 12]), scale=SCALE)
    grad = torch.linspace(-1, 1, whole.numel(), dtype=torch.float64).view_as(whole)
    expected = torch.autograd.grad(whole, (q, k, v), grad)
    places = torch.arange(21).split([4, 5, 7, 5])
    calls = [
        (torch.cat([places[0], places[2]]), {"cu_q": bounds(own), "cu_k": bounds(before), "causal": False}),
        (torch.cat([places[1], places[3]]), {"cu_q": bounds(own), "cu_k": bounds(own), "causal": True}),
    ]
    found = [torch.zeros_like(x) for x in (q, k, v)]
    with torch.no_grad():
        parts = [partial.forward(q, k[:, :, at], v[:, :, at], scale=SCALE, **call) for at, call in calls]  # type: ignore[arg-type]
        lse = torch.logaddexp(parts[0][1], parts[1][1])
        out = sum(torch.exp(part_lse - lse)[..., None] * part for part, part_lse in parts)
        torch.testing.assert_close(out, whole, atol=1e-12, rtol=0)
        for at, call in calls:
            grads = partial.backward(grad, q, k[:, :, at], v[:, :, at], out, lse, scale=SCALE, **call)  # type: ignore[arg-type]
            found[0] += grads[0]
            found[1][:, :, at] += grads[1]
            found[2][:, :, at] += grads[2]
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-12, rtol=0)


@given(
    segments=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=3),
    window=st.none() | st.integers(1, 90),
)
@settings(max_examples=40)
def test_tiles_cover_the_mask(segments: list[tuple[int, int]], window: int | None) -> None:
    cu_q, cu_k = (bounds(list(lengths)) for lengths in zip(*segments, strict=True))
    covered = np.zeros((int(cu_q[-1]), int(cu_k[-1])), int)
    for tile in tiles(cu_q.tolist(), cu_k.tolist(), window):
        query, key = np.arange(tile.q_end - tile.q_start)[:, None], np.arange(tile.k_end - tile.k_start)[None, :]
        seen = np.ones((len(query), key.shape[1]), bool)
        if tile.kind == "causal":
            seen = key <= query
        if tile.kind == "band":
            assert window is not None
            seen = (key <= query + tile.offset) & (key > query + tile.offset - window)
        covered[tile.q_start : tile.q_end, tile.k_start : tile.k_end] += seen
    assert (covered == dense_mask(cu_q, cu_k, window).numpy()).all()


def test_the_operator_keeps_what_torch_asks_of_operators() -> None:
    cu = torch.from_numpy(bounds([3, 4]))
    inputs = qkv(4, 2, torch.float64, 7, 7)
    torch.library.opcheck(cpu_varlen, (*inputs, cu, cu, SCALE, None, True))


def test_flash_output_needs_no_copy_to_become_token_major() -> None:
    cu = bounds(LENGTHS)
    output, _ = cpu_flash_attention(*qkv(4, 2, torch.float32), cu_q=cu, cu_k=cu, scale=SCALE)
    assert output.transpose(1, 2).is_contiguous()


def test_dense_mask_by_hand() -> None:
    two_one = bounds([2, 1])
    assert dense_mask(two_one, two_one).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    three = bounds([3])
    assert dense_mask(three, three, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert dense_mask(bounds([1]), three).int().tolist() == [[1, 1, 1]]  # the last query is at the last key
    assert dense_mask(three, bounds([1])).int().tolist() == [[0], [0], [1]]
