"""What an attention backend promises, and how one is chosen.

Shapes: N query heads, K key and value heads (N is a multiple of K), T queries and S keys of all segments, H head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class VarlenAttention(Protocol):
    """Causal attention inside each segment of one row, and none between segments."""

    def __call__(
        self,
        q_1NTH: torch.Tensor,
        k_1KSH: torch.Tensor,
        v_1KSH: torch.Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        window: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output ``[1, N, T, H]``, which can be differentiated, and log-sum-exp ``[1, N, T]`` of at least float32.

        Segment i holds the queries ``cu_q[i]:cu_q[i + 1]`` and the keys ``cu_k[i]:cu_k[i + 1]``. Its last query is at
        its last key (bottom right): with n queries and m keys, query j sees the keys up to j + m - n, and under
        ``window`` only the last ``window`` of these. A query that sees no key gives 0, and -inf as log-sum-exp. Query
        heads i*N/K .. (i+1)*N/K - 1 share key head i.
        """


class PartialAttention(Protocol):
    """Attention over some of the keys at a time, outside of autograd; shapes and segments as in ``VarlenAttention``.

    Results over disjoint sets of keys are put together by their log-sum-exps. Without ``causal``, each query sees all
    keys of its segment.
    """

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
        """Output and log-sum-exp over these keys."""

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
        """These keys' part of the gradients of q, k and v; ``out`` and ``lse`` are those over *all* keys."""


@dataclass(frozen=True, slots=True)
class AttentionNeeds:
    """What a run asks of a backend; ``head_size`` 0, ``grouped`` and ``partial`` False ask for nothing."""

    device: str
    dtype: str
    mask: MaskMode
    head_size: int = 0
    window: bool = False
    grouped: bool = False
    partial: bool = False


def _nothing_missing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class AttentionBackend:
    """A backend and what it can do; ``load`` imports the code behind it, ``missing`` says what that would lack.

    ``load_partial`` is there if it also computes over some of the keys at a time. One ``on_request`` is too slow to be
    chosen by itself: it has to be named.
    """

    name: str
    devices: frozenset[str]
    dtypes: frozenset[str]
    masks: frozenset[MaskMode]
    load: Callable[[], VarlenAttention]
    max_head_size: int | None = None
    head_size_multiple: int = 1
    windows: bool = True
    grouped_heads: bool = True
    missing: Callable[[], str] = _nothing_missing
    load_partial: Callable[[], PartialAttention] | None = None
    on_request: bool = False

    def lacks(self, needs: AttentionNeeds) -> str:
        """What is missing for such a run, in words; empty if nothing is."""
        if needs.device not in self.devices:
            return f"does not run on {needs.device}"
        if needs.dtype not in self.dtypes:
            return f"does not compute in {needs.dtype}"
        if needs.mask not in self.masks:
            return f"cannot apply the {needs.mask.value} mask this data set was packed for"
        if needs.head_size % self.head_size_multiple or needs.head_size > (self.max_head_size or needs.head_size):
            return f"does not take heads of {needs.head_size}"
        if needs.window and not self.windows:
            return "has no sliding window, which this model has"
        if needs.grouped and not self.grouped_heads:
            return "needs as many key heads as query heads"
        if needs.partial and self.load_partial is None:
            return "does not compute over some of the keys at a time, as ring and hybrid context parallelism need"
        return self.missing()


def select_attention(name: str, backends: Sequence[AttentionBackend], needs: AttentionNeeds) -> AttentionBackend:
    """The backend called ``name``, or for "auto" the first that can do it; SP201 if it cannot.

    Nothing is replaced in silence: a named backend that cannot keep samples apart is an error, not a hint.
    """
    chosen_by_itself = [backend for backend in backends if not backend.on_request]
    candidates = chosen_by_itself if name == "auto" else [backend for backend in backends if backend.name == name]
    reasons = []
    for backend in candidates:
        reason = backend.lacks(needs)
        if not reason:
            return backend
        reasons.append(f"{backend.name} {reason}")
    names = ", ".join(backend.name for backend in backends)
    why = "; ".join(reasons) or f"there is no attention backend of that name (there are: {names})"
    raise ConfigError(
        "SP201",
        f"--attention {name}: nothing here keeps samples apart: {why}"
        if name == "auto"
        else f"--attention {name}: {why}",
        help="choose --attention auto, another --dtype or --device, or pack the data again",
    )
