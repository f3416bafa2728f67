"""First-fit decreasing: longest sample first, each into the first pack with room."""

import numpy as np
from numpy.typing import NDArray

from seqpack.api import PackPlan


class LongestFirst:
    """Looks at every open pack for every sample: short and clear, and too slow beyond some 100,000 samples."""

    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        packs: list[list[int]] = []
        room: list[int] = []
        for sample in np.argsort(-lengths, kind="stable").tolist():
            length = int(lengths[sample])
            pack = next((pack for pack, left in enumerate(room) if left >= length), len(packs))
            if pack == len(packs):
                packs.append([])
                room.append(seq_length)
            packs[pack].append(sample)
            room[pack] -= length
        return PackPlan.from_packs(packs, lengths, seq_length=seq_length).shuffled(rng)
