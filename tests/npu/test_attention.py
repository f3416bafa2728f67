"""Emulated: the NPU's attention through a numerical model of its operator. It shows that what is sent to the operator
is right if the model is; no NPU takes part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.npu import NpuAttention, missing_npu_attention
from seqpack.attention.npu_calls import CallPlan, head_major_places
from seqpack.attention.npu_cases import CASES, RESULTS, Case, run_cases
from seqpack.attention.reference import reference_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.segments import cu_seqlens_from_lengths as bounds
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.models.load import build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.runtime.batch import collate
from seqpack.runtime.device import CpuBackend
from seqpack.train.loss import chunked_cross_entropy

from .emulator import VERSIONS, RefusedError, from_operator, register, to_operator

SCALE = 0.3


@pytest.fixture(scope="module")
def operators() -> Iterator[dict[str, Any]]:
    """Version of torch_npu -> its operators, emulated."""
    found = {version: register(version, f"npu_{version.replace('.', '_')}") for version in VERSIONS}
    yield {version: namespace for version, (_, namespace) in found.items()}
    for library, _ in found.values():
        library._destroy()


@pytest.fixture(scope="module")
def attention(operators: dict[str, Any]) -> NpuAttention:
    return NpuAttention(operators["2.13.0"])


@pytest.fixture(scope="module")
def old_attention(operators: dict[str, Any]) -> NpuAttention:
    """Of a torch_npu that has statistics head by head and no way to ask for another order."""
    return NpuAttention(operators["2.5.1.post1"])


def qkv(queries: int, keys: int, heads: int = 4, kv_heads: int = 2, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, queries, heads, size), (1, keys, kv_heads, size), (1, keys, kv_heads, size)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in tensors]


SMALL = tuple(case for case in CASES if sum(case.num_queries) < 1000)


@pytest.mark.parametrize(("dtype", "cases"), [(torch.float64, CASES), (torch.bfloat16, SMALL)])
def test_all_cases(attention: NpuAttention, dtype: torch.dtype, cases: tuple[Case, ...]) -> None:
    results = run_cases(attention, dtype=dtype, cases=cases)
    assert [result.case for result in results] == list(cases)
    assert [(result.case.name, result.differences) for result in results if not result.passed] == []


def test_cases_see_a_wrong_attention() -> None:
    def unlike_the_contract(q: Any, k: Any, v: Any, **keywords: Any) -> Any:
        return cpu_flash_attention(q, k, v, **(keywords | {"window": None}))

    failed = [result.case for result in run_cases(unlike_the_contract, cases=SMALL) if not result.passed]
    assert failed == [case for case in SMALL if case.window is not None]


def test_a_number_that_is_not_finite_fails_a_case() -> None:
    (result,) = run_cases(cpu_flash_attention, cases=CASES[:1])
    assert result.passed
    assert set(result.differences) == set(RESULTS)
    assert not replace(result, differences=result.differences | {"dq": float("nan")}).passed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "window"),
    [
        ([5, 1, 37, 2, 70], [5, 1, 37, 2, 70], None),
        ([5, 1, 37, 2, 70], [5, 1, 37, 2, 70], 8),
        ([5, 1, 0, 2, 70], [7, 0, 4, 1, 90], None),
        ([5, 1, 0, 2, 70], [7, 0, 4, 1, 90], 6),
        ([1] * 1030, [1] * 1030, None),
    ],
)
def test_every_version_of_the_schema(
    operators: dict[str, Any], version: str, num_queries: list[int], num_keys: list[int], window: int | None
) -> None:
    cu_q, cu_k = bounds(num_queries), bounds(num_keys)
    inputs = qkv(int(cu_q[-1]), int(cu_k[-1]))
    found, wanted = (
        attention(*inputs, cu_q=cu_q, cu_k=cu_k, scale=SCALE, window=window)
        for attention in (NpuAttention(operators[version]), reference_attention)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    weights = torch.linspace(-1, 1, int(cu_q[-1]), dtype=torch.float64)[:, None]
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out, _ in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


SEGMENTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5)


@given(segments=SEGMENTS, window=st.none() | st.integers(1, 6))
@settings(max_examples=25)
def test_any_segments(
    attention: NpuAttention,
    old_attention: NpuAttention,
    segments: list[tuple[int, int]],
    window: int | None,
) -> None:
    cu_q, cu_k = (bounds(lengths) for lengths in zip(*segments, strict=True))
    inputs = qkv(int(cu_q[-1]), int(cu_k[-1]))
    weights = torch.linspace(-1, 1, int(cu_q[-1]), dtype=torch.float64)[:, None]
    wanted = reference_attention(*inputs, cu_q=cu_q, cu_k=cu_k, scale=SCALE, window=window)
    wanted_gradients = torch.autograd.grad((wanted[0] * weights).sum(), inputs)
    for each in (attention, old_attention):
        found = each(*inputs, cu_q=cu_q, cu_k=cu_k, scale=SCALE, window=window)
        gradients = torch.autograd.grad((found[0] * weights).sum(), inputs)
        for ours, theirs in zip((*found, *gradients), (*wanted, *wanted_gradients), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("version", ["2.13.0", "2.5.1.post1"])
def test_keys_in_two_parts_with_the_statistics_of_both(operators: dict[str, Any], version: str) -> None:
    """As a ring does it: the segment's own keys, then earlier ones that a neighbour holds, then the merged gradient."""
    attention = NpuAttention(operators[version])
    earlier, own = [6, 0, 9], [4, 5, 3]
    cu, cu_earlier = bounds(own), bounds(earlier)
    of_own = {"cu_q": cu, "cu_k": cu, "scale": SCALE, "causal": True}
    of_earlier = {"cu_q": cu, "cu_k": cu_earlier, "scale": SCALE, "causal": False}
    q, k, v = qkv(12, 12)
    _, k_earlier, v_earlier = (x.flip(3) for x in qkv(12, 15))
    with torch.no_grad():
        outputs, sums = zip(
            attention.forward(q, k, v, **of_own),
            attention.forward(q, k_earlier, v_earlier, **of_earlier),
            strict=True,
        )
        lse = torch.logaddexp(*sums)
        out = sum(part * torch.exp(s - lse)[..., None] for part, s in zip(outputs, sums, strict=True))
        grad = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None].expand(out.shape)
        near = attention.backward(grad, q, k, v, out, lse, **of_own)
        far = attention.backward(grad, q, k_earlier, v_earlier, out, lse, **of_earlier)

    order = np.concatenate(
        [np.r_[e : e + m, 15 + o : 15 + o + n] for e, m, o, n in zip(cu_earlier, earlier, cu, own, strict=False)]
    )
    whole = [torch.cat(pair, 2)[:, :, order].detach().requires_grad_() for pair in ((k_earlier, k), (v_earlier, v))]
    cu_both = bounds([m + n for m, n in zip(earlier, own, strict=True)])
    wanted, wanted_lse = reference_attention(q, *whole, cu_q=cu, cu_k=cu_both, scale=SCALE)
    torch.testing.assert_close(out, wanted.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, wanted_lse.detach(), atol=1e-12, rtol=0)
    dq, dk, dv = torch.autograd.grad((wanted * grad).sum(), [q, *whole])
    torch.testing.assert_close(near[0] + far[0], dq, atol=1e-12, rtol=0)
    for ours, theirs in ((1, dk), (2, dv)):
        both = torch.cat((far[ours], near[ours]), 2)[:, :, order]
        torch.testing.assert_close(both, theirs, atol=1e-12, rtol=0)


class Spy:
    """Operators that note what they are called with."""

    def __init__(self, operators: Any, refusal: str = "") -> None:
        self.calls: list[dict[str, Any]] = []
        self._refusal = refusal
        for name in ("npu_fusion_attention", "npu_fusion_attention_grad"):
            setattr(self, name, self._noting(getattr(operators, name)))

    def _noting(self, operator: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(keywords)
            if self._refusal and "softmax_layout" in keywords:
                raise RuntimeError(self._refusal)
            return operator(*arguments, **keywords)

        call.default = operator.default  # type: ignore[attr-defined]
        return call


def test_what_the_operator_is_asked(operators: dict[str, Any]) -> None:
    spy = Spy(operators["2.13.0"])
    cu = bounds([3, 4])
    out, _ = NpuAttention(spy)(*(inputs := qkv(7, 7)), cu_q=cu, cu_k=cu, scale=SCALE)
    torch.autograd.grad(out.sum(), inputs)
    NpuAttention(spy)(*inputs, cu_q=cu, cu_k=cu, scale=SCALE, window=3)
    NpuAttention(spy)(*inputs, cu_q=cu, cu_k=cu, scale=SCALE, window=4)
    forward, backward, band, no_band = spy.calls
    for call in (forward, backward):
        assert (call["actual_seq_qlen"], call["actual_seq_kvlen"]) == ([3, 7], [3, 7])  # no leading 0
        assert (call["sparse_mode"], call["softmax_layout"]) == (3, "TND")
    assert backward["softmax_max"].shape == (7, 4, 8)
    assert bool((backward["softmax_sum"] == 1).all())
    assert (band["sparse_mode"], band["pre_tockens"], band["next_tockens"]) == (4, 2, 0)
    assert no_band["sparse_mode"] == 3


def test_calls_hold_as_many_segments_as_the_operator_takes(operators: dict[str, Any]) -> None:
    spy = Spy(operators["2.13.0"])
    cu = bounds([1] * 2500)
    NpuAttention(spy)(*qkv(2500, 2500), cu_q=cu, cu_k=cu, scale=SCALE)
    assert [len(call["actual_seq_qlen"]) for call in spy.calls] == [1024, 1024, 452]


def test_an_older_cann_gives_the_same(operators: dict[str, Any]) -> None:
    """torch_npu knows the argument and CANN does not: the other order is read, and asked for from then on."""
    spy = Spy(operators["2.13.0"], refusal="The param softmax_layout is not supported")
    cu = bounds([3, 4])
    attention, inputs = NpuAttention(spy), qkv(7, 7)
    found = attention(*inputs, cu_q=cu, cu_k=cu, scale=SCALE)
    wanted = reference_attention(*inputs, cu_q=cu, cu_k=cu, scale=SCALE)
    torch.testing.assert_close(found[1], wanted[1], atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out, _ in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    assert ["softmax_layout" in call for call in spy.calls] == [True, False, False]


def test_other_errors_of_the_operator_come_through(operators: dict[str, Any]) -> None:
    spy = Spy(operators["2.13.0"], refusal="aicore timeout")
    cu = bounds([3])
    with pytest.raises(RuntimeError, match="aicore timeout"):
        NpuAttention(spy)(*qkv(3, 3), cu_q=cu, cu_k=cu, scale=SCALE)


def test_plans_by_hand() -> None:
    plan = CallPlan.of(bounds([3, 2, 0, 4]), bounds([1, 0, 2, 6]), causal=True)
    assert plan.q_rows is not None and plan.q_rows.tolist() == [2, 5, 6, 7, 8]
    assert plan.k_rows is not None and plan.k_rows.tolist() == [0, 3, 4, 5, 6, 7, 8]
    assert (plan.cu_q.tolist(), plan.cu_k.tolist()) == ([0, 1, 5], [0, 1, 7])
    everything = CallPlan.of(bounds([3, 2, 0, 4]), bounds([1, 0, 2, 6]), causal=False)
    assert everything.q_rows is not None and everything.q_rows.tolist() == [0, 1, 2, 5, 6, 7, 8]
    usual = CallPlan.of(bounds([3, 2]), bounds([3, 2]), causal=True)
    assert usual.q_rows is None and usual.k_rows is None


def test_calls_hold_as_many_tokens_as_the_operator_takes() -> None:
    cu = bounds([2**19, 2**19, 1, 2**20 + 1, 5])
    calls = list(CallPlan.of(cu, cu, causal=True).calls())
    assert [len(call.q_ends) for call in calls] == [2, 1, 1, 1]  # one segment is never divided
    assert [call.q_end - call.q_start for call in calls] == [2**20, 1, 2**20 + 1, 5]


def test_order_of_statistics_by_hand() -> None:
    rows = torch.arange(6).view(3, 2)  # token t of head n is 2 t + n
    assert to_operator(rows, [0, 2, 3], "")[..., 0].flatten().tolist() == [0, 2, 1, 3, 4, 5]
    assert head_major_places([2, 3], 2).tolist() == [[0, 2], [1, 3], [4, 5]]
    wide = to_operator(rows.float(), [0, 2, 3], "")
    assert torch.equal(from_operator(wide, [0, 2, 3], ""), rows.float())
    assert not torch.equal(from_operator(wide, [0, 2, 3], "TND"), rows.float())


GOOD: dict[str, Any] = {"actual_seq_qlen": [3, 8], "actual_seq_kvlen": [3, 8], "sparse_mode": 3}
COMPRESSED = torch.ones(2048, 2048, dtype=torch.bool).triu(1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"actual_seq_qlen": None}, "should not be empty"),
        ({"actual_seq_qlen": [5, 3]}, "must rise"),
        ({"actual_seq_qlen": [0, 3, 8]}, "must rise"),
        ({"actual_seq_qlen": [8]}, "size of actual_seq_qlen"),
        ({"actual_seq_qlen": [3, 7]}, "ends at 7"),
        ({"actual_seq_qlen": torch.tensor([3, 8])}, "Expected a value"),
        ({"actual_seq_qlen": [6, 8], "actual_seq_kvlen": [3, 8]}, "more queries than keys"),
        ({"atten_mask": torch.ones(8, 8, dtype=torch.bool).triu(1)}, "compressed mask"),
        ({"atten_mask": COMPRESSED.t().contiguous()}, "above the diagonal"),
        ({"attn_mask": COMPRESSED}, "Unknown keyword"),
        ({"sparse_mode": 4, "pre_tockens": -1, "next_tockens": 0}, "hides every key"),
        ({"sparse_mode": 5}, "not modelled"),
        ({"keep_prob": 0.9}, "keep_prob is not modelled"),
        ({"softmax_layout": "NTD"}, "softmax_layout"),
    ],
)
def test_the_model_refuses(operators: dict[str, Any], change: dict[str, Any], reason: str) -> None:
    x = torch.randn(8, 2, 4)
    good = {"atten_mask": COMPRESSED, **GOOD}
    operator = operators["2.13.0"].npu_fusion_attention
    operator(x, x, x, 2, "TND", **good)
    with pytest.raises((RefusedError, RuntimeError), match=reason):
        operator(x, x, x, 2, "TND", **(good | change))


def test_the_model_refuses_too_many_segments_and_other_head_numbers(operators: dict[str, Any]) -> None:
    operator, x = operators["2.13.0"].npu_fusion_attention, torch.randn(1025, 2, 4)
    ends = list(range(1, 1026))
    with pytest.raises(RefusedError, match="more than 1024"):
        operator(x, x, x, 2, "TND", actual_seq_qlen=ends, actual_seq_kvlen=ends)
    with pytest.raises(RefusedError, match="head_num is 4"):
        operator(x, x, x, 4, "TND", actual_seq_qlen=[1025], actual_seq_kvlen=[1025])


def test_without_a_mask_the_mode_does_nothing(operators: dict[str, Any]) -> None:
    """The trap: no mask is no error, and every query sees every key of its segment."""
    x = torch.randn(8, 2, 4)
    operator = operators["2.13.0"].npu_fusion_attention
    out = operator(x, x, x, 2, "TND", **GOOD)[0]
    assert torch.equal(out, operator(x, x, x, 2, "TND", **(GOOD | {"sparse_mode": 0}))[0])
    assert not torch.allclose(out, operator(x, x, x, 2, "TND", atten_mask=COMPRESSED, **GOOD)[0])


def test_the_backend_needs_torch_npu() -> None:
    (backend,) = [backend for backend in BUILTIN_BACKENDS if backend.name == "npu"]
    assert backend.devices == {"npu"}
    assert missing_npu_attention() == backend.missing()
    if find_spec("torch_npu") is None:
        assert backend.missing() == "needs the package torch_npu"


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_a_whole_model(attention: NpuAttention, old_attention: NpuAttention, family: str) -> None:
    """Loss and every gradient of a step on packed samples; Mistral has a window that ends inside some."""
    spec = resolve_model(f"tiny:{family}", vocab_size=61)
    if family == "mistral":
        spec.config.sliding_window = 5
    model = build_model(spec, dtype=torch.float64, backend=CpuBackend())
    ids = np.random.default_rng(0).integers(2, 60, 40).astype(np.int32)
    row = PackedSequence(ids, ids, np.array([0, 1, 8, 25, 40], np.int32), 0)
    batch = collate([row], MaskMode.BLOCK_CAUSAL)
    found = []
    for each in (cpu_flash_attention, attention, old_attention):
        model.zero_grad()
        loss = PackedLM(model, each, chunked_cross_entropy)(batch)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours in found[1:]:
        for x, y in zip(ours, found[0], strict=True):
            torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)
