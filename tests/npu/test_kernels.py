"""Emulated: the fused operators around attention against the layers of transformers; no NPU takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.models.kernel_modules import Kernels, Part
from seqpack.models.kernels import KERNEL_SETS, choose_kernels
from seqpack.models.npu_kernels import rms_norm, rotate, swiglu
from seqpack.train.loss import chunked_cross_entropy

from .emulator import VERSIONS, register

NOTHING = SimpleNamespace()


@pytest.fixture(scope="module", params=[*VERSIONS, "without"])
def operators(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The operators of one torch_npu, or none."""
    if request.param == "without":
        yield NOTHING
        return
    library, namespace = register(request.param, f"npu_kernels_{request.param.replace('.', '_')}")
    yield namespace
    library._destroy()


def inputs(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def assert_same(ours: Callable[[], Any], wanted: Callable[[], Any], leaves: list[torch.Tensor]) -> None:
    """Results and gradients."""
    found = []
    for function in (ours, wanted):
        results = function()
        results = results if isinstance(results, tuple) else (results,)
        total = sum((result * torch.linspace(-1, 1, result.shape[-1])).sum() for result in results)
        found.append([*results, *torch.autograd.grad(total, leaves)])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_rms_norm(operators: Any) -> None:
    (x,) = inputs((1, 7, 16))
    norm = LlamaRMSNorm(16, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    assert_same(lambda: rms_norm(x, norm.weight, 1e-3, operators=operators), lambda: norm(x), [x, norm.weight])


def test_rotation(operators: Any) -> None:
    q, k = (x.transpose(1, 2) for x in inputs((1, 7, 4, 8), (1, 7, 2, 8)))
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    embedding = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4))
    cos, sin = embedding(q, positions)
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    assert_same(
        lambda: rotate(q, k, cos, sin, operators=operators), lambda: apply_rotary_pos_emb(q, k, cos, sin), [q, k]
    )
    rotated, _ = rotate(q, k, cos, sin, operators=operators)
    assert rotated.shape == q.shape
    if operators is not NOTHING:
        assert rotated.transpose(1, 2).is_contiguous()


def test_swiglu(operators: Any) -> None:
    (x,) = inputs((1, 7, 16))
    mlp = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2))

    def ours() -> torch.Tensor:
        return mlp.down_proj(swiglu(mlp.gate_proj(x), mlp.up_proj(x), operators=operators))

    assert_same(ours, lambda: mlp(x), [x, *mlp.parameters()])


@pytest.mark.parametrize(("size", "dtype"), [(896, torch.float32), (8, torch.bfloat16)])
def test_what_the_rotation_does_not_take(size: int, dtype: torch.dtype) -> None:
    library, namespace = register("2.13.0", "npu_kernels_heads")
    q, k = inputs((1, 2, 3, size), (1, 1, 3, size), dtype=dtype)
    (angles,) = inputs((1, 3, size))
    found = rotate(q, k, angles.cos(), angles.sin(), operators=namespace)
    wanted = rotate(q, k, angles.cos(), angles.sin(), operators=NOTHING)
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))
    library._destroy()


def test_weights_of_another_dtype_are_not_given_to_the_operator() -> None:
    library, namespace = register("2.13.0", "npu_kernels_mixed")
    (x,), (weight,) = inputs((2, 8), dtype=torch.bfloat16), inputs((8,))
    wanted = rms_norm(x, weight, 1e-6, operators=NOTHING)
    assert torch.equal(rms_norm(x, weight, 1e-6, operators=namespace), wanted)
    library._destroy()


def test_the_kernels_of_a_run(operators: Any) -> None:
    """``--kernels npu`` on a tiny copy; the device is the CPU."""
    functions = [partial(function, operators=operators) for function in (rms_norm, rotate, swiglu)]
    npu = next(each for each in KERNEL_SETS if each.name == "npu")
    assert not npu.load().scaled_rotation  # the operator takes nothing beyond [-1, 1]
    here = replace(
        npu,
        devices=frozenset({"cpu"}),
        load=lambda: Kernels(*functions, scaled_rotation=False),
        missing=str,
    )
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
    for dtype in (torch.float64, torch.bfloat16):
        chosen = choose_kernels(
            "npu", config, torch.device("cpu"), dtype, cpu_flash_attention, chunked_cross_entropy, sets=[here]
        )
        assert chosen.parts == set(Part)
