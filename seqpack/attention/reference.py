"""Attention with the whole mask built, T x S: slow, obvious, and what the fast backends are compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def reference_attention(
    q_1NTH: torch.Tensor,
    k_1KSH: torch.Tensor,
    v_1KSH: torch.Tensor,
    *,
    cu_q: NDArray[np.int32],
    cu_k: NDArray[np.int32],
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``VarlenAttention``; everything between the inputs and the output is computed in at least float32."""
    return _attend(q_1NTH, k_1KSH, v_1KSH, dense_mask(cu_q, cu_k, window), scale)


class ReferencePartial:
    """See ``PartialAttention``; the gradients are written out, as those of a part need the log-sum-exp of the whole."""

    def forward(
        self,
        q_1NTH: torch.Tensor,
        k_1KSH: torch.Tensor,
        v_1KSH: torch.Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _attend(q_1NTH, k_1KSH, v_1KSH, dense_mask(cu_q, cu_k, causal=causal), scale)

    def backward(
        self,
        grad_1NTH: torch.Tensor,
        q_1NTH: torch.Tensor,
        k_1KSH: torch.Tensor,
        v_1KSH: torch.Tensor,
        out_1NTH: torch.Tensor,
        lse_1NT: torch.Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mask_TS = dense_mask(cu_q, cu_k, causal=causal)
        q, k, v, scores_1NTS = _scores(q_1NTH, k_1KSH, v_1KSH, mask_TS, scale)
        grad, out = grad_1NTH.to(q.dtype), out_1NTH.to(q.dtype)
        weights_1NTS = torch.exp(scores_1NTS - lse_1NT[..., None])
        grad_weights_1NTS = grad @ v.transpose(-1, -2)
        grad_scores_1NTS = weights_1NTS * (grad_weights_1NTS - (grad * out).sum(-1, keepdim=True)) * scale
        grad_k_1NSH, grad_v_1NSH = grad_scores_1NTS.transpose(-1, -2) @ q, weights_1NTS.transpose(-1, -2) @ grad
        one, heads, num_keys, size = k_1KSH.shape
        grad_k, grad_v = (x.view(one, heads, -1, num_keys, size).sum(2) for x in (grad_k_1NSH, grad_v_1NSH))
        return (grad_scores_1NTS @ k).to(q_1NTH.dtype), grad_k.to(k_1KSH.dtype), grad_v.to(v_1KSH.dtype)


def _attend(
    q_1NTH: torch.Tensor, k_1KSH: torch.Tensor, v_1KSH: torch.Tensor, mask_TS: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    _, _, v_1NSH, scores_1NTS = _scores(q_1NTH, k_1KSH, v_1KSH, mask_TS, scale)
    lse_1NT = scores_1NTS.logsumexp(-1)
    blind_1NT = lse_1NT.isneginf()  # sees no key: exp(-inf - -inf) would be nan
    weights_1NTS = torch.exp(scores_1NTS - lse_1NT.masked_fill(blind_1NT, 0.0)[..., None])
    return (weights_1NTS @ v_1NSH).to(q_1NTH.dtype), lse_1NT


def _scores(
    q_1NTH: torch.Tensor, k_1KSH: torch.Tensor, v_1KSH: torch.Tensor, mask_TS: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v with as many heads and in at least float32, and the scores, -inf where the mask is false."""
    group = q_1NTH.shape[1] // k_1KSH.shape[1]
    wide = torch.promote_types(q_1NTH.dtype, torch.float32)
    q, k, v = q_1NTH.to(wide), *(x.to(wide).repeat_interleave(group, dim=1) for x in (k_1KSH, v_1KSH))
    scores_1NTS = q @ k.transpose(-1, -2) * scale
    return q, k, v, scores_1NTS.masked_fill(~mask_TS.to(q.device), -math.inf)


def dense_mask(
    cu_q: NDArray[np.int32], cu_k: NDArray[np.int32], window: int | None = None, *, causal: bool = True
) -> torch.Tensor:
    """Boolean ``[T, S]``, true where the query of the row may see the key of the column."""
    segment_T, segment_S = (np.repeat(np.arange(len(cu) - 1), np.diff(cu)) for cu in (cu_q, cu_k))
    # Places counted from the end of the segment, which is where queries and keys meet.
    place_T, place_S = (np.arange(cu[-1]) - cu[segment + 1] for cu, segment in ((cu_q, segment_T), (cu_k, segment_S)))
    ahead = place_T[:, None] - place_S[None, :]
    mask = segment_T[:, None] == segment_S[None, :]
    if causal:
        mask &= ahead >= 0
    if window is not None:
        mask &= ahead < window
    return torch.from_numpy(mask)
