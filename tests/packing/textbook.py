"""Packers as textbooks have them: slow, and plain to see right."""

from __future__ import annotations


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Contents of each pack: try every pack, take the fullest that still fits."""
    packs: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in packs if sum(pack) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            packs.append([length])
    return packs


def first_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Contents of each pack: take the first that fits."""
    packs: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        pack = next((pack for pack in packs if sum(pack) + length <= capacity), None)
        if pack is None:
            pack = []
            packs.append(pack)
        pack.append(length)
    return packs


def fewest_packs(lengths: list[int], capacity: int) -> int:
    """The fewest packs there can be, by trying everything; for a handful of samples."""
    best = len(lengths)

    def place(rest: list[int], rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best and rest:
            return
        if not rest:
            best = min(best, len(rooms))
            return
        for number, room in enumerate(rooms):
            if room >= rest[0] and room not in rooms[:number]:
                place(rest[1:], [*rooms[:number], room - rest[0], *rooms[number + 1 :]])
        place(rest[1:], [*rooms, capacity - rest[0]])

    place(sorted(lengths, reverse=True), [])
    return best if lengths else 0
