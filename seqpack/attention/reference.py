"""Attention with the whole mask built, T x T: slow, obvious, and what the fast backends are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from seqpack.core.segments import Segments


def reference_attention(
    q_1NTH: torch.Tensor, k_1KTH: torch.Tensor, v_1KTH: torch.Tensor, *, segments: Segments, scale: float
) -> torch.Tensor:
    """See ``VarlenAttention``."""
    mask_TT = dense_mask(segments).to(q_1NTH.device)
    group = q_1NTH.shape[1] // k_1KTH.shape[1]
    k_1NTH, v_1NTH = (x.repeat_interleave(group, dim=1) for x in (k_1KTH, v_1KTH))
    return torch.nn.functional.scaled_dot_product_attention(q_1NTH, k_1NTH, v_1NTH, attn_mask=mask_TT, scale=scale)


def dense_mask(segments: Segments) -> torch.Tensor:
    """Boolean ``[T, T]``, true where the query of the row may see the key of the column."""
    lengths = segments.attended.lengths
    segment_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    return (segment_T[:, None] == segment_T[None, :]).tril()
