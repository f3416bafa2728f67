"""A numerical model of torch_npu's fused operators on any device, and of what they refuse.

Written from their documentation: layout TND alone, sparse modes 0, 3 and 4, no dropout. What a call may not do is an
error here: on an NPU some of it is one as well, and some gives wrong numbers without a word. float64 is allowed, which
no NPU computes. ``register`` puts the model under a namespace of its own, behind the schemas of one torch_npu.

T and S are queries and keys of all segments, N and K their heads, H head size. Statistics have eight equal copies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCHEMAS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "npu" / "schemas.json").read_text(encoding="utf-8")
)
VERSIONS = tuple(SCHEMAS)
MAX_SEGMENTS = 1024
MAX_TOKENS = 2**20
UNBOUNDED = 2147483647
COPIES = 8


class RefusedError(RuntimeError):
    """The operator does not compute such a call."""


def need(condition: bool, message: str) -> None:
    if not condition:
        raise RefusedError(message)


@dataclass(frozen=True)
class Bounds:
    """Segments of one call, ends with the leading 0."""

    q: list[int]
    k: list[int]

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        for (q_start, q_end), (k_start, k_end) in zip(pairwise(self.q), pairwise(self.k), strict=True):
            yield q_start, q_end, k_start, k_end


@dataclass(frozen=True)
class Mask:
    """What the mask arguments of a call say."""

    hides: bool
    sparse_mode: int
    before: int
    after: int

    def seen(self, queries: int, keys: int) -> Tensor | None:
        """Boolean ``[queries, keys]`` of a segment; None is everything."""
        if not self.hides:
            return None
        if self.sparse_mode == 3:
            need(queries <= keys, "sparse_mode 3: a segment has more queries than keys, so some see none")
        ahead = torch.arange(keys)[None] - torch.arange(queries)[:, None] - (keys - queries)
        seen = ahead <= 0 if self.sparse_mode == 3 else (ahead <= self.after) & (ahead >= -self.before)
        need(bool(seen.any(1).all()), "a row of the mask hides every key")
        return seen


def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    pre_tockens: int = UNBOUNDED,
    next_tockens: int = UNBOUNDED,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    softmax_layout: str = "",
) -> tuple[Any, ...]:
    bounds = _check(query, key, value, head_num, input_layout, actual_seq_qlen, actual_seq_kvlen, softmax_layout)
    mask = _check_mask(atten_mask, sparse_mode, pre_tockens, next_tockens)
    out = query.new_full(query.shape, math.nan)
    highest, total = (query.new_full(query.shape[:2], math.nan, dtype=_wide(query)) for _ in range(2))
    for q_start, q_end, k_start, k_end in bounds:
        scores_NQK = _scores(query[q_start:q_end], key[k_start:k_end], scale, mask)
        top_NQ = scores_NQK.amax(-1)
        weights_NQK = torch.exp(scores_NQK - top_NQ[..., None])
        total_NQ = weights_NQK.sum(-1)
        part = weights_NQK @ _heads(value[k_start:k_end], head_num) / total_NQ[..., None]
        out[q_start:q_end] = part.transpose(0, 1).to(query.dtype)
        highest[q_start:q_end], total[q_start:q_end] = top_NQ.t(), total_NQ.t()
    statistics = (to_operator(x, bounds.q, softmax_layout) for x in (highest, total))
    return (out, *statistics, query.new_empty(0), 0, 0, 0)


def npu_fusion_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale_value: float = 1.0,
    pre_tockens: int = UNBOUNDED,
    next_tockens: int = UNBOUNDED,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    softmax_layout: str = "",
) -> tuple[Tensor, ...]:
    bounds = _check(query, key, value, head_num, input_layout, actual_seq_qlen, actual_seq_kvlen, softmax_layout)
    mask = _check_mask(atten_mask, sparse_mode, pre_tockens, next_tockens)
    need(None not in (softmax_max, softmax_sum, attention_in), "the gradient needs both statistics and the output")
    assert softmax_max is not None and softmax_sum is not None and attention_in is not None
    need(dy.shape == attention_in.shape == query.shape, "dy and attention_in have the shape of query")
    need(dy.dtype == attention_in.dtype == query.dtype, "dy and attention_in have the dtype of query")
    need(dy.is_contiguous() and attention_in.is_contiguous(), "dy and attention_in are contiguous")
    highest, total = (from_operator(x, bounds.q, softmax_layout) for x in (softmax_max, softmax_sum))
    grads = [x.new_zeros(x.shape, dtype=_wide(x)) for x in (query, key, value)]
    group = head_num // key.shape[1]
    for q_start, q_end, k_start, k_end in bounds:
        queries, keys = slice(q_start, q_end), slice(k_start, k_end)
        k_NKH, v_NKH = _heads(key[keys], head_num), _heads(value[keys], head_num)
        scores_NQK = _scores(query[queries], key[keys], scale_value, mask)
        weights_NQK = torch.exp(scores_NQK - highest[queries].t()[..., None]) / total[queries].t()[..., None]
        dy_NQH, out_NQH, q_NQH = (_heads(x[queries], head_num) for x in (dy, attention_in, query))
        through = dy_NQH @ v_NKH.transpose(1, 2) - (dy_NQH * out_NQH).sum(-1, keepdim=True)
        dscores_NQK = weights_NQK * through * scale_value
        grads[0][queries] = (dscores_NQK @ k_NKH).transpose(0, 1)
        for grad, by_head in zip(
            grads[1:], (dscores_NQK.transpose(1, 2) @ q_NQH, weights_NQK.transpose(1, 2) @ dy_NQH), strict=True
        ):
            grad[keys] = by_head.unflatten(0, (-1, group)).sum(1).transpose(0, 1)
    nothing = query.new_empty(0)
    dq, dk, dv = (grad.to(x.dtype) for grad, x in zip(grads, (query, key, value), strict=True))
    return dq, dk, dv, nothing, nothing


def npu_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    need(gamma.shape == x.shape[-gamma.ndim :], "gamma has the last dimensions of the input")
    rstd = torch.rsqrt(x.to(_wide(x)).pow(2).mean(-1, keepdim=True) + epsilon)
    return (x.to(_wide(x)) * rstd * gamma.to(_wide(x))).to(x.dtype), rstd


def npu_rotary_mul(x: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Any = None) -> Tensor:
    need(x.ndim == r1.ndim == r2.ndim == 4, "rotary_mul takes four dimensions")
    need(x.shape[-1] % 2 == 0 and x.shape[-1] < 896, "head sizes are even and below 896")
    need(rotary_mode == "half" and rotate is None, "the model knows rotary_mode half alone")
    need(r1.shape == r2.shape, "both factors have one shape")
    # The batch or the heads are 1, the place of the tokens is the same in both.
    need(all(b in (1, a) for a, b in zip(x.shape, r1.shape, strict=True)), "factors have another layout than the input")
    need(x.dtype == r1.dtype == r2.dtype, "the input and both factors have one dtype")
    first, second = x.chunk(2, -1)
    return x * r1 + torch.cat((-second, first), -1) * r2


def npu_swiglu(x: Tensor, dim: int = -1) -> Tensor:
    need(x.shape[dim] % 2 == 0, "the dimension is cut in halves")
    gate, up = x.chunk(2, dim)
    return torch.nn.functional.silu(gate) * up


OPERATORS: dict[str, Callable[..., Any]] = {
    "npu_fusion_attention": npu_fusion_attention,
    "npu_fusion_attention_grad": npu_fusion_attention_grad,
    "npu_rms_norm": npu_rms_norm,
    "npu_rotary_mul": npu_rotary_mul,
    "npu_swiglu": npu_swiglu,
}
COMPOSITE = ("npu_rms_norm", "npu_rotary_mul", "npu_swiglu")
"""Differentiated through what they are made of. Attention has no autograd here: ours must not need it."""


def register(version: str, namespace: str) -> tuple[torch.library.Library, Any]:
    """The operators as torch_npu ``version`` declares them; the library keeps them alive."""
    library = torch.library.Library(namespace, "DEF")
    for name, function in OPERATORS.items():
        library.define(SCHEMAS[version][name])
        implementation = _with_schema(getattr(getattr(torch.ops, namespace), name).default, function)
        kind = "CompositeImplicitAutograd" if name in COMPOSITE else "CompositeExplicitAutograd"
        library.impl(name, implementation, kind)
    return library, getattr(torch.ops, namespace)


def _with_schema(operator: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` for all arguments of a schema: those it does not model must be at their defaults."""
    arguments = operator._schema.arguments
    if function not in (npu_fusion_attention, npu_fusion_attention_grad):
        return function
    known = function.__kwdefaults__ or {}
    positional = function.__code__.co_argcount
    num_results = len(operator._schema.returns)

    def call(*values: Any, **keywords: Any) -> Any:
        given = dict(zip((argument.name for argument in arguments), values, strict=False)) | keywords
        for argument in arguments[positional:]:
            if argument.name not in known:
                value = given.pop(argument.name, argument.default_value)
                need(value == argument.default_value, f"{argument.name} is not modelled")
        return function(**given)[:num_results]

    return call


def to_operator(rows_TN: Tensor, ends: Sequence[int], layout: str) -> Tensor:
    """``[T, N]`` -> the operator's ``[T, N, 8]``. By default the heads of a segment follow each other in memory."""
    if layout != "TND":
        parts = [rows_TN[start:end].t().reshape(-1) for start, end in pairwise(ends)]
        rows_TN = torch.cat(parts).view(rows_TN.shape)
    return rows_TN[..., None].expand(*rows_TN.shape, COPIES).contiguous()


def from_operator(statistic_TN8: Tensor, ends: Sequence[int], layout: str) -> Tensor:
    tokens, heads, copies = statistic_TN8.shape
    need(copies == COPIES, "statistics have a last dimension of 8")
    need(bool((statistic_TN8 == statistic_TN8[..., :1]).all()), "the eight copies are equal")
    need(statistic_TN8.dtype == _wide(statistic_TN8), "statistics are float32")
    if layout == "TND":
        return statistic_TN8[..., 0]
    flat = statistic_TN8.reshape(tokens * heads, COPIES)[:, 0]
    return torch.cat([flat[a * heads : b * heads].view(heads, b - a).t() for a, b in pairwise(ends)])


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    layout: str,
    q_ends: Sequence[int] | None,
    k_ends: Sequence[int] | None,
    softmax_layout: str,
) -> Bounds:
    need(layout == "TND", f"the model knows input_layout TND alone, not {layout}")
    need(softmax_layout in ("", "TND"), "softmax_layout is TND or not given")
    need(query.ndim == key.ndim == value.ndim == 3, "TND takes three dimensions")
    need(query.dtype == key.dtype == value.dtype, "query, key and value have one dtype")
    allowed = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    need(query.dtype in allowed, f"{query.dtype} is not supported")
    need(all(x.is_contiguous() for x in (query, key, value)), "query, key and value are contiguous")
    need(query.shape[1] == head_num <= 256, f"head_num is {head_num}, query has {query.shape[1]} heads")
    need(head_num % key.shape[1] == 0, "query heads are a multiple of key heads")
    need(key.shape == value.shape, "key and value have one shape")
    need(query.shape[2] == key.shape[2] <= 768, "query and key have one head size, at most 768")
    need(0 < query.shape[0] <= MAX_TOKENS and 0 < key.shape[0] <= MAX_TOKENS, "T is 1 to 1M")
    bounds = Bounds(_ends(q_ends, len(query), "actual_seq_qlen"), _ends(k_ends, len(key), "actual_seq_kvlen"))
    need(len(bounds.q) == len(bounds.k), "The size of actual_seq_qlen should be equal to actual_seq_kvlen when TND")
    return bounds


def _ends(ends: Sequence[int] | None, total: int, name: str) -> list[int]:
    need(ends is not None and len(ends) > 0, f"The {name} should not be empty when TND")
    assert ends is not None
    found = [0, *ends]
    # An empty segment is documented; which of its rows and statistics mean anything is not.
    need(all(a < b for a, b in pairwise(found)), f"{name} must rise, from the end of the first segment")
    need(len(ends) <= MAX_SEGMENTS, f"{name} has {len(ends)} segments, more than {MAX_SEGMENTS}")
    need(found[-1] == total, f"{name} ends at {found[-1]}, not at T = {total}")
    return found


def _check_mask(mask: Tensor | None, sparse_mode: int, before: int, after: int) -> Mask:
    need(sparse_mode in (0, 3, 4), f"sparse_mode {sparse_mode} is not modelled")
    if mask is None:
        # Documented: without a mask the mode does nothing, and everything is computed.
        return Mask(False, sparse_mode, before, after)
    need(sparse_mode != 0, "a mask of the whole row is not modelled")
    need(mask.dtype in (torch.bool, torch.uint8), "a mask is bool or uint8")
    need(tuple(mask.shape) == (2048, 2048), f"sparse_mode {sparse_mode} takes the compressed mask, 2048 x 2048")
    upper = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
    need(bool((mask.bool().cpu() == upper).all()), "the compressed mask hides what is above the diagonal")
    return Mask(True, sparse_mode, before, after)


def _scores(q_QNH: Tensor, k_KMH: Tensor, scale: float, mask: Mask) -> Tensor:
    """Scaled products ``[N, Q, K]`` in at least float32, -inf where hidden."""
    heads = q_QNH.shape[1]
    scores = _heads(q_QNH, heads) @ _heads(k_KMH, heads).transpose(1, 2) * scale
    seen = mask.seen(len(q_QNH), len(k_KMH))
    return scores if seen is None else scores.masked_fill(~seen.to(scores.device), -math.inf)


def _heads(x_TMH: Tensor, heads: int) -> Tensor:
    """``[N, T, H]`` in at least float32, shared heads repeated."""
    return x_TMH.to(_wide(x_TMH)).transpose(0, 1).repeat_interleave(heads // x_TMH.shape[1], 0)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32
