"""Best-fit decreasing: longest sample first, each into the pack with the least room that still takes it.

Packs are kept by how much room they have left, so that a sample finds its pack by a search over distinct rooms
(at most ``seq_length`` of them), not over packs: n samples cost O(n log seq_length).
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan


class BestFit:
    """Few packs; they come out in random order, because longest-first would be a curriculum nobody asked for."""

    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        packs: list[list[int]] = []
        with_room: dict[int, list[int]] = {}
        rooms: list[int] = []  # the keys of with_room, sorted
        order = np.argsort(-lengths, kind="stable")
        for sample, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
            place = bisect_left(rooms, length)
            if place == len(rooms):
                pack, room = len(packs), seq_length
                packs.append([])
            else:
                room = rooms[place]
                pack = with_room[room].pop()
                if not with_room[room]:
                    del with_room[room], rooms[place]
            packs[pack].append(sample)
            left = room - length
            if left not in with_room:
                with_room[left] = []
                insort(rooms, left)
            with_room[left].append(pack)
        return PackPlan.from_packs(packs, lengths, seq_length=seq_length).shuffled(rng)
