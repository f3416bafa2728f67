"""Where rows of Hugging Face tensors lie in chunks of unsplit parameters: to verify what was written or is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.convert.dcp import Box
from seqpack.convert.families import Join
from seqpack.convert.mcore import Form, Model
from seqpack.convert.stacks import Position, Stack, chunk_key, is_per_layer, positions
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
            _holding(stacks[position.name], boxes[position.name], position, row, rule.join)
            for position in positions(model, rule, layer, expert, per_layer=per_layer)
            if position.name in stacks
        ]

    return find


def _holding(stack: Stack, boxes: Sequence[Box], position: Position, row: NDArray[Any], join: Join) -> Holding:
    """``row``: where each row of the Hugging Face tensor lies in the whole parameter of its layer (and expert)."""
    index = position.place
    mine = [box for box in boxes if _holds(box, index)]
    keys = tuple(chunk_key(stack.name, box) for box in mine)
    if len({_columns(stack, box) for box in mine}) > 1:
        return _by_columns(stack, position, mine, row, join)
    shard, within = np.zeros_like(row), np.zeros_like(row)
    for number, box in enumerate(mine):
        first, height = box.offsets[len(index)], box.sizes[len(index)]
        is_here = (first <= row) & (row < first + height)
        shard[is_here] = number
        within[is_here] = row[is_here] - first + height * _number(box, index)
    return Holding(keys, shard, within)


def _by_columns(stack: Stack, position: Position, boxes: Sequence[Box], row: NDArray[Any], join: Join) -> Holding:
    """Of a parameter that tensor parallelism cuts by columns: chunks of one layer (and expert) and of equal width."""
    ordered = sorted(boxes, key=lambda box: box.offsets[-1])
    one_member = (*(1 for _ in position.place), len(row))
    is_plain = all(box.sizes[:-1] == one_member for box in ordered)
    if join is not Join.COLUMNS or not is_plain or len({box.sizes[-1] for box in ordered}) > 1:
        raise ConfigError(
            "SP406",
            f"{stack.name} is cut by rows and columns, which cannot be verified",
            help="convert with --no-verify",
        )
    return Holding(tuple(chunk_key(stack.name, box) for box in ordered), np.zeros_like(row), row, in_columns=True)


def _holds(box: Box, index: tuple[int, ...]) -> bool:
    return all(first <= place < first + size for first, size, place in zip(*box, index, strict=False))


def _number(box: Box, index: tuple[int, ...]) -> int:
    """How many members lie in the box before that one."""
    number = 0
    for first, size, place in zip(*box, index, strict=False):
        number = number * size + place - first
    return number


def _columns(stack: Stack, box: Box) -> tuple[int, int]:
    window = stack.window(box)
    return window.column, window.columns
