"""Which layers lie on which stage of a checkpoint of rank files, also those that do nothing and so are in no file."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping

from seqpack.convert.megatron_args import arg_numbers
from seqpack.convert.split import Chunk, Rank

Place = tuple[int, int]
"""Pipeline stage, and virtual stage there."""

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


def find_stages(
    files: Mapping[Rank, Mapping[int, Iterable[str]]], args: Namespace | None, pp: int
) -> tuple[tuple[Chunk, ...], ...]:
    """``Split.stages`` of files that have these parameters, by rank and virtual stage.

    Numbers that a virtual stage skips belong to layers that do nothing. Of those at its end only ``args`` can tell.
    """
    vpp = 1 + max(chunk for chunks in files.values() for chunk in chunks)
    local: dict[Place, set[int]] = {(stage, chunk): set() for chunk in range(vpp) for stage in range(pp)}
    for rank, chunks in files.items():
        for chunk, names in chunks.items():
            local[rank.pp, chunk] |= {int(match[1]) for name in names if (match := _LAYER.fullmatch(name))}
    sizes = _sizes(local, args, vpp)
    count = 0
    stages: dict[Place, Chunk] = {}
    for place, numbers in local.items():
        layers = {number: count + after for after, number in enumerate(sorted(numbers))}
        count += len(numbers)
        stages[place] = tuple(layers.get(number) for number in range(sizes[place]))
    return tuple(tuple(stages[stage, chunk] for chunk in range(vpp)) for stage in range(pp))


def _sizes(local: Mapping[Place, set[int]], args: Namespace | None, vpp: int) -> dict[Place, int]:
    """Layers of each virtual stage, with those that do nothing."""
    seen = {place: max(numbers, default=-1) + 1 for place, numbers in local.items()}
    idle = arg_numbers(args, "noop_layers")
    said = dict.fromkeys(seen, 0)
    if idle and (listed := arg_numbers(args, "num_layer_list")):
        said = {(stage, 0): size for stage, size in enumerate(listed)}
    elif idle or vpp > 1:  # stages are equal then
        total = sum(map(len, local.values())) + len(idle)
        said = dict.fromkeys(seen, max(total // len(seen), *seen.values()))
    return {place: max(size, said.get(place, 0)) for place, size in seen.items()}
