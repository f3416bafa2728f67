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
    group = q_1NTH.shape[1] // k_1KSH.shape[1]
    wide = torch.promote_types(q_1NTH.dtype, torch.float32)
    k_1NSH, v_1NSH = (x.to(wide).repeat_interleave(group, dim=1) for x in (k_1KSH, v_1KSH))
    mask_TS = dense_mask(cu_q, cu_k, window).to(q_1NTH.device)
    scores_1NTS = q_1NTH.to(wide) @ k_1NSH.transpose(-1, -2) * scale
    scores_1NTS = scores_1NTS.masked_fill(~mask_TS, -math.inf)
    lse_1NT = scores_1NTS.logsumexp(-1)
    blind_1NT = lse_1NT.isneginf()  # sees no key: exp(-inf - -inf) would be nan
    weights_1NTS = torch.exp(scores_1NTS - lse_1NT.masked_fill(blind_1NT, 0.0)[..., None])
    return (weights_1NTS @ v_1NSH).to(q_1NTH.dtype), lse_1NT


def dense_mask(cu_q: NDArray[np.int32], cu_k: NDArray[np.int32], window: int | None = None) -> torch.Tensor:
    """Boolean ``[T, S]``, true where the query of the row may see the key of the column."""
    segment_T, segment_S = (np.repeat(np.arange(len(cu) - 1), np.diff(cu)) for cu in (cu_q, cu_k))
    # Places counted from the end of the segment, which is where queries and keys meet.
    place_T, place_S = (np.arange(cu[-1]) - cu[segment + 1] for cu, segment in ((cu_q, segment_T), (cu_k, segment_S)))
    ahead = place_T[:, None] - place_S[None, :]
    mask = (segment_T[:, None] == segment_S[None, :]) & (ahead >= 0)
    if window is not None:
        mask &= ahead < window
    return torch.from_numpy(mask)
