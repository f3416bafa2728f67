"""What an algorithm of context parallelism is: from boundaries and ranks to a plan, and from a plan to attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from seqpack.cp.cost import AttentionShape, Price, Rates
    from seqpack.cp.exchange import Wire
    from seqpack.cp.kernels import Kernels
    from seqpack.cp.plan import Placement


class Attend(Protocol):
    """Attention of this rank's queries, wherever their keys are; shapes as in ``seqpack.cp.kernels``."""

    def __call__(
        self,
        q_1NTH: torch.Tensor,
        k_1KTH: torch.Tensor,
        v_1KTH: torch.Tensor,
        *,
        kernels: Kernels,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Output ``[T, N, H]``; all ranks of the group call it together."""


class ContextPlan(Protocol):
    """How the ranks share one batch. The same on all of them; ``name`` is that of the algorithm."""

    @property
    def name(self) -> str: ...
    @property
    def placement(self) -> Placement: ...
    def digest(self) -> bytes:
        """Eight bytes, the same for the same plan: ranks that have others must not exchange anything."""

    def price(self, shape: AttentionShape, rates: Rates) -> Price:
        """What attention of one layer costs, without a window."""

    def bind(self, wire: Wire, device: torch.device) -> Attend:
        """This rank's part."""


Algorithm = Callable[["NDArray[np.int32]", int], ContextPlan]
"""``cu_seqlens`` of a batch and the number of ranks -> their plan."""
