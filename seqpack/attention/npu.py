"""Variable-length attention on Ascend NPUs: the operator ``npu_fusion_attention`` in its layout TND.

It has been checked against a numerical model of the operator and the schemas of torch_npu, never on an NPU.

What it keeps for the backward pass is the log-sum-exp alone, [T, N]. The gradient operator computes
exp(score - max) / sum from two statistics of eight equal copies each; (log-sum-exp, 1) is such a pair. It serves one
call and, with the log-sum-exp over the keys of several calls, the parts of an attention that was done piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqpack.attention.npu_calls import Call, CallPlan, head_major_places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COPIES = 8
"""Equal numbers the operator has for each token and head: one block of its memory."""
MASK_SIZE = 2048
ALL_KEYS, RIGHT_DOWN_CAUSAL, BAND = 0, 3, 4
"""Sparse modes; the last two have their corner where the last query meets the last key."""


class NpuAttention:
    """``VarlenAttention`` and ``PartialAttention`` by the operators of ``torch.ops.npu``, or of another namespace.

    Versions of torch_npu differ in arguments and in the number of results, so only what the schema has is passed.
    """

    def __init__(self, operators: Any) -> None:
        self._forward = operators.npu_fusion_attention
        self._backward = operators.npu_fusion_attention_grad
        arguments = {argument.name for argument in self._forward.default._schema.arguments}
        self._token_major = "softmax_layout" in arguments

    def __call__(
        self,
        q_1NTH: Tensor,
        k_1KSH: Tensor,
        v_1KSH: Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See ``VarlenAttention``."""
        out_1NTH, lse_1NT = _Attend.apply(  # type: ignore[no-untyped-call]
            q_1NTH, k_1KSH, v_1KSH, self, cu_q, cu_k, scale, window
        )
        return out_1NTH, lse_1NT

    def forward(
        self,
        q_1NTH: Tensor,
        k_1KSH: Tensor,
        v_1KSH: Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        causal: bool,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See ``PartialAttention``."""
        plan = CallPlan.of(cu_q, cu_k, causal=causal)
        q_TNH, k_SKH, v_SKH = _taking_part(plan, q_1NTH, k_1KSH, v_1KSH)
        mask = _mask_arguments(plan, window, q_TNH.device, causal=causal)
        parts = [self._call(call, _of_call(call, q_TNH, k_SKH, v_SKH), scale, mask) for call in plan.calls()]
        nothing = q_TNH, q_TNH[..., 0].to(_lse_dtype(q_TNH))  # where no query sees a key, no row is left
        out_TNH, lse_TN = (_joined(pieces) for pieces in zip(*parts or [nothing], strict=True))
        num_tokens = q_1NTH.shape[2]
        return (
            _put_back(out_TNH, plan.q_rows, num_tokens, 0.0).transpose(0, 1)[None],
            _put_back(lse_TN, plan.q_rows, num_tokens, -math.inf).t()[None],
        )

    def backward(
        self,
        grad_1NTH: Tensor,
        q_1NTH: Tensor,
        k_1KSH: Tensor,
        v_1KSH: Tensor,
        out_1NTH: Tensor,
        lse_1NT: Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        causal: bool,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``PartialAttention``."""
        plan = CallPlan.of(cu_q, cu_k, causal=causal)
        q_TNH, k_SKH, v_SKH = _taking_part(plan, q_1NTH, k_1KSH, v_1KSH)
        grad_TNH, out_TNH, lse_TN1 = (
            _rows(_token_major(x), plan.q_rows) for x in (grad_1NTH, out_1NTH, lse_1NT[..., None])
        )
        mask = _mask_arguments(plan, window, q_TNH.device, causal=causal)
        parts = []
        for call in plan.calls():
            queries = slice(call.q_start, call.q_end)
            lse = self._to_operator(lse_TN1[queries, :, 0], call.q_ends)
            found = self._backward(
                *_of_call(call, q_TNH, k_SKH, v_SKH),
                grad_TNH[queries],
                q_TNH.shape[1],
                "TND",
                softmax_max=lse,
                softmax_sum=torch.ones_like(lse),
                attention_in=out_TNH[queries],
                scale_value=scale,
                **self._boundaries(call),
                **mask,
            )
            parts.append(found[:3])
        grads = (_joined(pieces) for pieces in zip(*parts or [(q_TNH, k_SKH, v_SKH)], strict=True))
        places = ((plan.q_rows, q_1NTH), (plan.k_rows, k_1KSH), (plan.k_rows, v_1KSH))
        grad_q, grad_k, grad_v = (
            _put_back(grad, rows, x.shape[2], 0.0).transpose(0, 1)[None]
            for grad, (rows, x) in zip(grads, places, strict=True)
        )
        return grad_q, grad_k, grad_v

    def _call(
        self, call: Call, qkv: tuple[Tensor, Tensor, Tensor], scale: float, mask: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """One call of the operator: output ``[T, N, H]`` and log-sum-exp ``[T, N]``."""
        arguments = (*qkv, qkv[0].shape[1], "TND")
        try:
            found = self._forward(*arguments, scale=scale, **self._boundaries(call), **mask)
        except RuntimeError as error:
            # The schema is torch_npu's; a CANN that is older than it says this before anything is computed.
            if not (self._token_major and "softmax_layout is not supported" in str(error)):
                raise
            self._token_major = False
            found = self._forward(*arguments, scale=scale, **self._boundaries(call), **mask)
        highest, total = (self._from_operator(statistic, call.q_ends) for statistic in found[1:3])
        return found[0], highest + total.log()

    def _boundaries(self, call: Call) -> dict[str, Any]:
        layout = {"softmax_layout": "TND"} if self._token_major else {}
        return {"actual_seq_qlen": call.q_ends, "actual_seq_kvlen": call.k_ends, **layout}

    def _from_operator(self, statistic_TN8: Tensor, ends: list[int]) -> Tensor:
        """A statistic as ``[T, N]``."""
        if self._token_major:
            return statistic_TN8[..., 0]
        tokens, heads, _ = statistic_TN8.shape
        return statistic_TN8.reshape(tokens * heads, COPIES)[:, 0][_places(ends, heads, statistic_TN8.device)]

    def _to_operator(self, statistic_TN: Tensor, ends: list[int]) -> Tensor:
        """``[T, N]`` in the form and order in which the operator takes statistics."""
        tokens, heads = statistic_TN.shape
        if not self._token_major:
            ordered = torch.empty_like(statistic_TN).reshape(-1)
            ordered[_places(ends, heads, statistic_TN.device)] = statistic_TN
            statistic_TN = ordered.view(tokens, heads)
        return statistic_TN[..., None].expand(tokens, heads, COPIES).contiguous()


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_1NTH: Tensor,
        k_1KSH: Tensor,
        v_1KSH: Tensor,
        attention: NpuAttention,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        window: int | None,
    ) -> tuple[Tensor, Tensor]:
        bounds: dict[str, Any] = {"cu_q": cu_q, "cu_k": cu_k, "scale": scale, "causal": True, "window": window}
        out_1NTH, lse_1NT = attention.forward(q_1NTH, k_1KSH, v_1KSH, **bounds)
        ctx.save_for_backward(q_1NTH, k_1KSH, v_1KSH, out_1NTH, lse_1NT)
        ctx.attention, ctx.bounds = attention, bounds
        ctx.mark_non_differentiable(lse_1NT)
        return out_1NTH, lse_1NT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.attention.backward(grads[0], *ctx.saved_tensors, **ctx.bounds)
        return (*found, None, None, None, None, None)


def missing_npu_attention() -> str:
    """Why the operator cannot run here, in words; empty if it can. Asked once the NPU has been chosen."""
    if find_spec("torch_npu") is None:
        return "needs the package torch_npu"
    return "" if hasattr(torch.ops.npu, "npu_fusion_attention_grad") else "is not part of this torch_npu"


def _mask_arguments(plan: CallPlan, window: int | None, device: torch.device, *, causal: bool) -> dict[str, Any]:
    """The mask comes compressed and the mode says how it is laid over every segment. No mask at all hides nothing."""
    if not causal:
        assert window is None, "a window is causal"
        return {"sparse_mode": ALL_KEYS}
    mask = _upper_triangle(device)
    if window is None or window >= plan.longest_key:
        return {"atten_mask": mask, "sparse_mode": RIGHT_DOWN_CAUSAL}
    # The operator counts the keys before the query, our window also the query's own.
    return {"atten_mask": mask, "sparse_mode": BAND, "pre_tockens": window - 1, "next_tockens": 0}


@cache
def _upper_triangle(device: torch.device) -> Tensor:
    """True is hidden, 4 MiB."""
    return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=device).triu(1)


def _places(ends: list[int], num_heads: int, device: torch.device) -> Tensor:
    return torch.from_numpy(head_major_places(ends, num_heads)).to(device)


def _taking_part(plan: CallPlan, q_1NTH: Tensor, k_1KSH: Tensor, v_1KSH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_TNH, k_SKH, v_SKH = (_token_major(x) for x in (q_1NTH, k_1KSH, v_1KSH))
    return _rows(q_TNH, plan.q_rows), _rows(k_SKH, plan.k_rows), _rows(v_SKH, plan.k_rows)


def _of_call(call: Call, q_TNH: Tensor, k_SKH: Tensor, v_SKH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys = slice(call.q_start, call.q_end), slice(call.k_start, call.k_end)
    return q_TNH[queries], k_SKH[keys], v_SKH[keys]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def _token_major(x_1NTH: Tensor) -> Tensor:
    """``[T, N, H]`` in one piece: no copy where memory is ordered that way already, as the layers around have it."""
    return x_1NTH[0].transpose(0, 1).contiguous()


def _rows(x: Tensor, rows: NDArray[np.int64] | None) -> Tensor:
    return x if rows is None else x.index_select(0, torch.from_numpy(rows).to(x.device))


def _put_back(x: Tensor, rows: NDArray[np.int64] | None, num_rows: int, other: float) -> Tensor:
    """Undo ``_rows``; rows that were left out are ``other``."""
    if rows is None:
        return x
    whole = x.new_full((num_rows, *x.shape[1:]), other)
    return whole.index_copy_(0, torch.from_numpy(rows).to(x.device), x)


def _lse_dtype(x: Tensor) -> torch.dtype:
    """The operator's statistics are float32; float64 exists in tests alone."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32
