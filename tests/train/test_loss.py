from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from seqpack.core.types import IGNORE_INDEX
from seqpack.train.loss import chunked_cross_entropy


def inputs(
    tokens: int, dtype: torch.dtype, *, labelled: float = 0.6, vocab_size: int = 23
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, output weights (both want gradients) and labels."""
    generator = torch.Generator().manual_seed(tokens)
    random = partial(torch.randn, generator=generator, dtype=torch.float64)
    hidden, weight = random(tokens, 8).to(dtype).requires_grad_(), random(vocab_size, 8).to(dtype).requires_grad_()
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) > labelled] = IGNORE_INDEX
    return hidden, weight, labels


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = (hidden @ weight.t()).to(torch.promote_types(weight.dtype, torch.float32))
    return cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


@settings(deadline=None, max_examples=60)
@given(tokens=st.integers(1, 40), chunk_tokens=st.integers(1, 50), labelled=st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_any_chunk_size_gives_the_plain_loss(tokens: int, chunk_tokens: int, labelled: float) -> None:
    hidden, weight, labels = inputs(tokens, torch.float64, labelled=labelled)
    loss = chunked_cross_entropy(hidden, weight, labels, chunk_tokens=chunk_tokens) / 7
    expected = plain(hidden, weight, labels) / 7
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    ours = torch.autograd.grad(loss, [hidden, weight])
    theirs = torch.autograd.grad(expected, [hidden, weight])
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_narrow_types_add_up_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, labels = inputs(300, dtype)
    loss = chunked_cross_entropy(hidden, weight, labels, chunk_tokens=7)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, plain(hidden, weight, labels), rtol=tolerance, atol=0)
    ours = torch.autograd.grad(loss, [hidden, weight])
    theirs = torch.autograd.grad(plain(hidden, weight, labels), [hidden, weight])
    for gradient, expected in zip(ours, theirs, strict=True):
        assert gradient.dtype is dtype
        assert (gradient - expected).norm() < tolerance * expected.norm()


def test_a_frozen_output_layer_costs_no_gradient() -> None:
    hidden, weight, labels = inputs(9, torch.float64)
    (expected,) = torch.autograd.grad(plain(hidden, weight, labels), hidden)
    loss = chunked_cross_entropy(hidden, weight.detach(), labels)
    assert loss.grad_fn is not None
    kept = [node for node, _ in loss.grad_fn.next_functions if node is not None]
    assert [node.gradient.shape for node in kept] == [hidden.shape]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], expected)


def test_without_gradients() -> None:
    hidden, weight, labels = inputs(9, torch.float64)
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(loss, plain(hidden, weight, labels).detach())


def test_a_second_backward_is_a_mistake() -> None:
    loss = chunked_cross_entropy(*inputs(9, torch.float64))
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, labels = inputs(9, torch.float32)
    loss = chunked_cross_entropy(hidden * 1e4, weight, labels)
    torch.testing.assert_close(loss, plain(hidden * 1e4, weight, labels))


class _Labels(TorchDispatchMode):
    """Notes the numbers by which logits are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.smallest: list[int] = []

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if operator in (torch.ops.aten.gather.default, torch.ops.aten.scatter_add_.default):
            self.smallest.append(int(arguments[2].min()))
        return operator(*arguments, **(keywords or {}))


def test_no_label_below_zero_reaches_the_logits() -> None:
    """Kernels for cross entropy differ in what they make of one, some read memory that is not theirs."""
    labels_T = torch.tensor([IGNORE_INDEX, 3, IGNORE_INDEX, 0, 5])
    hidden_TD, weight_VD = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    with _Labels() as seen:
        chunked_cross_entropy(hidden_TD, weight_VD, labels_T).backward()
    assert seen.smallest == [0, 0]
