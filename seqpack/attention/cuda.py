"""Variable-length attention on CUDA: torch's own kernel, or the package flash-attn. Default tests do not run it.

Both take ``[T, N, H]`` and int32 boundaries on the device, are bottom-right causal and share key heads.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def torch_varlen_attention(
    q_1NTH: torch.Tensor,
    k_1KSH: torch.Tensor,
    v_1KSH: torch.Tensor,
    *,
    cu_q: NDArray[np.int32],
    cu_k: NDArray[np.int32],
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``VarlenAttention``; ``torch.nn.attention.varlen``."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    q_TNH, k_SKH, v_SKH = _token_major(q_1NTH, k_1KSH, v_1KSH)
    cu_seq_q, cu_seq_k, max_q, max_k = _bounds(cu_q, cu_k, q_1NTH.device)
    out_TNH, lse_NT = varlen_attn(
        q_TNH,
        k_SKH,
        v_SKH,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        scale=scale,
        window_size=_window(window),
        enable_gqa=q_1NTH.shape[1] != k_1KSH.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    return out_TNH.transpose(0, 1)[None], lse_NT[None]


def flash_attn_attention(
    q_1NTH: torch.Tensor,
    k_1KSH: torch.Tensor,
    v_1KSH: torch.Tensor,
    *,
    cu_q: NDArray[np.int32],
    cu_k: NDArray[np.int32],
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``VarlenAttention``; the package ``flash-attn`` 2."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    found: Any = flash_attn_varlen_func(
        *_token_major(q_1NTH, k_1KSH, v_1KSH),
        *_bounds(cu_q, cu_k, q_1NTH.device),
        softmax_scale=scale,
        causal=True,
        window_size=_window(window) if window is not None else (-1, -1),
        return_attn_probs=True,
    )
    return found[0].transpose(0, 1)[None], found[1][None]


def missing_torch_varlen() -> str:
    """Why torch's kernel cannot run here, in words; empty if it can."""
    if find_spec("torch.nn.attention.varlen") is None:
        return f"is not part of torch {torch.__version__}"
    return "" if torch.cuda.is_available() else "needs a CUDA device"


def missing_flash_attn() -> str:
    """Why flash-attn cannot run here, in words; empty if it can."""
    if find_spec("flash_attn") is None:
        return "needs the package flash-attn"
    return "" if torch.cuda.is_available() else "needs a CUDA device"


def _token_major(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor[0].transpose(0, 1) for tensor in tensors]


def _bounds(
    cu_q: NDArray[np.int32], cu_k: NDArray[np.int32], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    on_device = (torch.from_numpy(cu).to(device, non_blocking=True) for cu in (cu_q, cu_k))
    cu_q_device, cu_k_device = on_device
    return cu_q_device, cu_k_device, int(np.diff(cu_q).max(initial=0)), int(np.diff(cu_k).max(initial=0))


def _window(window: int | None) -> tuple[int, int]:
    """(keys before the query, keys after it): -1 is all of them. Ours counts the query's own key, theirs do not."""
    return (-1, 0) if window is None else (window - 1, 0)
