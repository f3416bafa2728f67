"""``planned``: whole documents stay on one rank, only long ones are cut, and only rows that are needed travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.cp.gather import GatheredPlan
from seqpack.cp.placements import document_aware

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def planned(cu_seqlens: NDArray[np.int32], size: int) -> GatheredPlan:
    """The plan of the ``size`` ranks for one batch."""
    return GatheredPlan("planned", document_aware(cu_seqlens, size))
