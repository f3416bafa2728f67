"""``kvallgather``: ranks follow each other along the row, and every rank gathers the keys and values of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.cp.gather import GatheredPlan
from seqpack.cp.placements import contiguous

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def kvallgather(cu_seqlens: NDArray[np.int32], size: int) -> GatheredPlan:
    """The plan of the ``size`` ranks for one batch."""
    return GatheredPlan("kvallgather", contiguous(cu_seqlens, size), everything=True)
