from __future__ import annotations

import pytest
import torch

from seqpack.train.optim import DecayStyle, Optimizer, learning_rate


def rates(style: DecayStyle, warmup_steps: int = 4, num_steps: int = 20) -> list[float]:
    options = {"peak": 1.0, "minimum": 0.1, "warmup_steps": warmup_steps}
    return [learning_rate(step, num_steps, style=style, **options) for step in range(num_steps)]  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["cosine", "linear"])
def test_rises_then_falls(style: DecayStyle) -> None:
    course = rates(style)
    assert course[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert course[4:] == sorted(course[4:], reverse=True)
    assert 0.1 < course[-1] < 0.2
    assert course[12] == pytest.approx(0.55)


def test_wsd_stays_and_then_falls() -> None:
    options = {"peak": 1.0, "minimum": 0.1, "warmup_steps": 2, "style": "wsd", "wsd_decay_steps": 4}
    course = [learning_rate(step, 10, **options) for step in range(10)]  # type: ignore[arg-type]
    assert course[:6] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert course[6:] == pytest.approx([0.82, 0.64, 0.46, 0.28])
    assert [learning_rate(step, 10, **{**options, "wsd_decay_steps": 99}) for step in (2, 9)] == pytest.approx(  # type: ignore[arg-type]
        [0.9, 0.2]
    )


def test_constant() -> None:
    assert rates("constant", warmup_steps=0) == [1.0] * 20


def test_a_run_that_is_all_warm_up() -> None:
    assert rates("cosine", warmup_steps=20)[-1] == 1.0


def test_only_matrices_decay() -> None:
    layer = torch.nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Optimizer(layer.named_parameters(), weight_decay=0.5).step(lr=0.1)
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * 0.95)
    assert torch.equal(layer.bias, before["bias"])
    assert layer.weight.grad is None


@pytest.mark.parametrize(("clip_grad", "left"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
def test_norm_is_that_before_clipping(clip_grad: float, left: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert Optimizer([("p", parameter)], clip_grad=clip_grad).gradient_norm().item() == pytest.approx(5.0)
    assert parameter.grad.norm().item() == pytest.approx(left, rel=1e-4)


def test_bfloat16_learns_from_steps_too_small_for_it() -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = Optimizer([("w", weight)])
    for _ in range(100):
        weight.sum().backward()
        weight.sum().backward()
        assert weight.grad is None  # added up in float32 instead
        assert optimizer.gradient_norm().item() == pytest.approx(4.0)
        optimizer.step(lr=1e-4)
    torch.testing.assert_close(weight.detach().float(), torch.full((4,), 0.99), atol=4e-3, rtol=0)
