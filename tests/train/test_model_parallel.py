"""Tensor, pipeline and expert parallel ranks give the loss and gradients of one process, to 1e-11 in float64."""

from __future__ import annotations

import pytest

from .parallel_cases import ROUTER, Case, check_cases

FEW_KV = {"num_key_value_heads": 2}
V_SHAPED = {"schedule": "zero-bubble"}
INTERLEAVED = {"layers_per_stage": 1}
ZERO_BUBBLE = {"schedule": "zero-bubble", "layers_per_stage": 1}

TWO_RANKS = [
    Case("qwen2", {"tp": 2}, tied=True),
    Case("qwen3", {"tp": 2}, settings={"vocab_size": 63}, micro=2, reduction="sample"),
    Case("llama", {"tp": 2}, tied=True, settings={"attention_bias": True}, recompute="selective"),
    Case("mistral", {"tp": 2}),
    Case("qwen3_moe", {"tp": 2}, settings={**ROUTER, "mlp_only_layers": [1]}),
    Case("qwen2", {"pp": 2}, tied=True),
    Case("llama", {"pp": 2}, rows=5, pipeline={"layer_list": "3,1"}, recompute="full"),
    Case("qwen2", {"pp": 2}, pipeline=INTERLEAVED, micro=2),
    Case("qwen3", {"pp": 2}, tied=True, pipeline=V_SHAPED),
    Case("qwen3_moe", {"pp": 2}, settings=ROUTER, pipeline=V_SHAPED),
    Case("qwen3_moe", {"ep": 2}, settings=ROUTER),
    Case("mixtral", {"ep": 2}, settings=ROUTER, rows=7, recompute="selective"),
    Case("qwen2", {"tp": 2}, tied=True, kernels=True),
    Case("qwen3", {"pp": 2}, tied=True, pipeline=V_SHAPED, kernels=True),
    Case("mixtral", {"ep": 2}, settings=ROUTER, rows=7, kernels=True),
    Case("llama", {}, recompute="selective", kernels=True),  # data parallel
]
FOUR_RANKS = [
    Case("qwen3", {"tp": 4}, settings=FEW_KV),
    Case("llama", {"tp": 4}, tied=True, settings={"num_key_value_heads": 1, "attention_bias": True}),
    Case("mixtral", {"tp": 4}, settings=ROUTER),
    Case("qwen2", {"pp": 4}, tied=True),
    Case("qwen2", {"tp": 2}, tied=True),  # with two data parallel ranks
    Case("qwen3", {"tp": 2, "dp_replicate": 2}),
    Case("qwen2", {"pp": 2, "tp": 2}, tied=True, pipeline=V_SHAPED),
    Case("llama", {"pp": 2}, tied=True, reduction="pack"),  # with two data parallel ranks
    Case("mixtral", {"ep": 2}, settings=ROUTER),  # two ranks have the same experts
    Case("qwen3_moe", {"ep": 2, "tp": 2}, settings=ROUTER),
    Case("qwen3", {"cp": 2, "tp": 2}),
    Case("qwen2", {"cp": 2, "pp": 2}, tied=True, pipeline=INTERLEAVED, context={"context_parallel_algo": "ring"}),
    Case("qwen3_moe", {"cp": 2, "pp": 2}, settings=ROUTER),
    Case("mixtral", {"cp": 2, "ep": 2}, settings=ROUTER),
    Case("mixtral", {"cp": 2, "tp": 2}, settings=ROUTER, context={"context_parallel_algo": "ulysses"}),
]


def test_two_ranks() -> None:
    check_cases(2, TWO_RANKS)


def test_four_ranks() -> None:
    check_cases(4, FOUR_RANKS)


FAMILIES = [("qwen2", False), ("qwen2", True), ("qwen3", False), ("llama", True), ("llama", False)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [2, 4])
def test_tensor_parallel_everywhere(size: int) -> None:
    settings = [{}, {"vocab_size": 61}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}]
    dense = [Case(f, {"tp": size}, tied, s, micro=m) for f, tied in FAMILIES for s in settings for m in (1, 2)]
    experts = [Case(f, {"tp": size}, settings=ROUTER) for f in ("mixtral", "qwen3_moe")]
    check_cases(size, [*dense, *experts])


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_schedule(size: int) -> None:
    deep = {"num_hidden_layers": 2 * size}
    deeper = {"num_hidden_layers": 3 * size}
    cases = []
    for family, tied in [*FAMILIES, ("mixtral", False), ("qwen3_moe", False)]:
        router = ROUTER if family in ("mixtral", "qwen3_moe") else {}
        for pipeline, layers in (({}, deep), (INTERLEAVED, deep), (V_SHAPED, deep), (ZERO_BUBBLE, deeper)):
            for micro in (1, 2):
                rows = 2 * size * micro
                settings = {**router, **layers}
                cases.append(Case(family, {"pp": size}, tied, settings, pipeline, rows=rows, micro=micro))
    check_cases(size, cases)


@pytest.mark.exhaustive
def test_three_axes_on_eight_ranks() -> None:
    check_cases(
        8,
        [
            Case("qwen2", {"pp": 2, "tp": 2}, tied=True),
            Case("qwen3", {"pp": 2, "tp": 2}, pipeline=INTERLEAVED),
            Case("llama", {"pp": 2, "tp": 2, "dp_replicate": 2}, tied=True, pipeline=V_SHAPED),
            Case("mixtral", {"pp": 2, "ep": 2, "tp": 2}, settings=ROUTER),
            Case("qwen3_moe", {"pp": 2, "ep": 2}, settings=ROUTER, pipeline=V_SHAPED, rows=16),
        ],
    )


@pytest.mark.exhaustive
def test_all_axes_on_sixteen_ranks() -> None:
    check_cases(
        16,
        [
            Case("qwen2", {"pp": 2, "cp": 2, "tp": 2}, tied=True),
            Case("llama", {"pp": 2, "cp": 2, "tp": 2}, pipeline=V_SHAPED, context={"context_parallel_algo": "ring"}),
            Case("qwen2", {"pp": 2, "tp": 2, "dp_replicate": 2}, tied=True, rows=16),
            Case("qwen3", {"pp": 2, "tp": 4}, settings=FEW_KV, pipeline=V_SHAPED),
            Case("mixtral", {"pp": 2, "ep": 2, "tp": 2}, settings=ROUTER, rows=16),
        ],
    )
