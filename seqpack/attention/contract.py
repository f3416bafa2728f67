"""What an attention backend promises, and how one is chosen.

Shapes: N query heads, K key and value heads (N is a multiple of K), T tokens of all segments, H head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode

if TYPE_CHECKING:
    import torch

    from seqpack.core.segments import Segments


class VarlenAttention(Protocol):
    """Causal attention inside each segment of one row, and none between segments."""

    def __call__(
        self,
        q_1NTH: torch.Tensor,
        k_1KTH: torch.Tensor,
        v_1KTH: torch.Tensor,
        *,
        segments: Segments,
        scale: float,
    ) -> torch.Tensor:
        """Output ``[1, N, T, H]``; query heads i*N/K .. (i+1)*N/K - 1 share key head i."""


@dataclass(frozen=True, slots=True)
class AttentionBackend:
    """A backend and what it can do; ``load`` imports the code behind it."""

    name: str
    devices: frozenset[str]
    dtypes: frozenset[str]
    masks: frozenset[MaskMode]
    load: Callable[[], VarlenAttention]

    def lacks(self, *, device: str, dtype: str, mask: MaskMode) -> str:
        """What is missing for such a run, in words; empty if nothing is."""
        if device not in self.devices:
            return f"does not run on {device}"
        if dtype not in self.dtypes:
            return f"does not compute in {dtype}"
        if mask not in self.masks:
            return f"cannot apply the {mask.value} mask this data set was packed for"
        return ""


def select_attention(
    name: str, backends: Sequence[AttentionBackend], *, device: str, dtype: str, mask: MaskMode
) -> AttentionBackend:
    """The backend called ``name``, or for "auto" the first that can do it; SP201 if it cannot.

    Nothing is replaced in silence: a named backend that cannot keep samples apart is an error, not a hint.
    """
    candidates = [backend for backend in backends if name in ("auto", backend.name)]
    reasons = []
    for backend in candidates:
        reason = backend.lacks(device=device, dtype=dtype, mask=mask)
        if not reason:
            return backend
        reasons.append(f"{backend.name} {reason}")
    names = ", ".join(backend.name for backend in backends)
    why = "; ".join(reasons) or f"there is no attention backend of that name (there are: {names})"
    raise ConfigError("SP201", f"--attention {name}: {why}", help="choose --attention auto, or pack the data again")
