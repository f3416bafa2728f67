"""Where rows of Hugging Face tensors lie in chunks of unsplit parameters: to verify what was written or is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.convert.dcp import Box
from seqpack.convert.mcore import Form, Model
from seqpack.convert.stacks import Stack, chunk_key, is_per_layer, positions
from seqpack.convert.verify import Find, Holding, part_rows
from seqpack.core.errors import ConfigError


def in_chunks(model: Model, form: Form, stacks: Mapping[str, Stack], boxes: Mapping[str, Sequence[Box]]) -> Find:
    """``boxes``: the chunks of each parameter, which make the whole of it."""
    per_layer = is_per_layer(stacks)
    rules = {
        Model.part_name(part.name, layer, expert): (rule, number, layer, expert)
        for rule, layer, expert in model.rules()
        for number, part in enumerate(rule.parts)
    }

    def find(name: str) -> Sequence[Holding]:
        rule, part, layer, expert = rules[name]
        row = part_rows(model.dims, rule, part, 1, form.vocab_rows)[1]
        return [
            holding(stacks[position.name], boxes[position.name], position.place, row)
            for position in positions(model, rule, layer, expert, per_layer=per_layer)
            if position.name in stacks
        ]

    return find


def holding(stack: Stack, boxes: Sequence[Box], place: tuple[int, ...], row: NDArray[Any]) -> Holding:
    """``row``: where each row of the Hugging Face tensor lies in the member of ``stack`` at ``place``.

    ConfigError SP406 if boxes of it overlap in their columns without having the same.
    """
    mine = [box for box in boxes if _holds(box, place)]
    columns = sorted({(stack.window(box).column, stack.window(box).columns) for box in mine})
    if len(columns) == 1:
        return _rows(stack, mine, place, row)
    if any(start + width != following for (start, width), (following, _) in pairwise(columns)):
        raise ConfigError(
            "SP406",
            f"{stack.name} is cut into pieces that do not lie in rows and columns, which cannot be verified",
            help="convert with --no-verify",
        )
    strips = [(start, [box for box in mine if stack.window(box).column == start]) for start, _ in columns]
    held = tuple((start, _rows(stack, boxes, place, row)) for start, boxes in strips)
    return Holding(held[0][1].shards, np.zeros_like(row), row, strips=held)


def _rows(stack: Stack, boxes: Sequence[Box], place: tuple[int, ...], row: NDArray[Any]) -> Holding:
    """Of boxes that have the same columns."""
    shard, within = np.zeros_like(row), np.zeros_like(row)
    for number, box in enumerate(boxes):
        first, height = box.offsets[len(place)], box.sizes[len(place)]
        is_here = (first <= row) & (row < first + height)
        shard[is_here] = number
        within[is_here] = row[is_here] - first + height * _number(box, place)
    return Holding(tuple(chunk_key(stack.name, box) for box in boxes), shard, within)


def _holds(box: Box, index: tuple[int, ...]) -> bool:
    return all(first <= place < first + size for first, size, place in zip(*box, index, strict=False))


def _number(box: Box, index: tuple[int, ...]) -> int:
    """How many members lie in the box before that one."""
    number = 0
    for first, size, place in zip(*box, index, strict=False):
        number = number * size + place - first
    return number
