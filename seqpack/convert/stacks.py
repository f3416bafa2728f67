"""A model as the parameters of ``torch_dist``: unsplit, the same one of all layers (and experts) one behind the other.

``decoder.layers.mlp.linear_fc1.weight`` is ``[layers, 2 * ffn, hidden]``; of experts, ``[layers, experts, ...]``. Where
layers differ (some have experts, some have not), each layer has parameters of its own: ``decoder.layers.3.mlp...``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

from seqpack.convert.dcp import Box
from seqpack.convert.families import EMBEDDING, HEAD, Rule
from seqpack.convert.mcore import Model, Parameter, cut_rows, whole_parameter
from seqpack.convert.plan import Rectangle, is_tiling
from seqpack.convert.tensors import Key, Piece, Tensor

CHUNK_ELEMENTS = 32 << 20
"""Rows of at most so many elements are one chunk: who loads a part of a parameter reads whole chunks."""
NORM, FUSED_NORM = "pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"
"""The norm before experts, as Transformer Engine's layers call it and as local ones do. Both are written."""

LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


class Position(NamedTuple):
    """The parameter of one layer (and expert) in a stack: the stack's name, and the place by layer (and expert)."""

    name: str
    place: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """``lead`` counts layers (and experts); ``members`` are parameters of one shape by their index."""

    name: str
    lead: tuple[int, ...]
    members: dict[tuple[int, ...], Parameter]

    @property
    def shape(self) -> tuple[int, ...]:
        one = self.one
        return (*self.lead, one.rows) if one.is_vector else (*self.lead, one.rows, one.columns)

    @property
    def one(self) -> Parameter:
        """Any of the members."""
        return next(iter(self.members.values()))

    def boxes(self) -> Iterator[Box]:
        """How we cut it: each member is apart, and large ones are in blocks of rows."""
        one = self.one
        height = max(1, min(one.rows, CHUNK_ELEMENTS // one.columns))
        width = () if one.is_vector else (one.columns,)
        for index in product(*map(range, self.lead)):
            for row in range(0, one.rows, height):
                rows = min(height, one.rows - row)
                yield Box((*index, row, *(0 for _ in width)), (*(1 for _ in index), rows, *width))

    def is_tiled(self, boxes: list[Box]) -> bool:
        """Whether boxes that lie inside the stack cover each of its elements exactly once."""
        one = self.one
        rectangles = []
        for box in boxes:
            row, column, rows, columns = self.window(box)
            for index in self.indices(box):
                first = self._flat(index) * one.rows + row
                rectangles.append(Rectangle(first, column, rows, columns))
        return is_tiling(rectangles, prod(self.lead) * one.rows, one.columns)

    def tensor(self, box: Box) -> Tensor:
        """The tensor that holds a box: its members one below the other."""
        row, column, rows, columns = self.window(box)
        pieces: list[Piece] = []
        indices = list(self.indices(box))
        for number, index in enumerate(indices):
            for piece in cut_rows(self.members[index].strips, row, row + rows, at=number * rows):
                pieces.append(piece._replace(column=column, columns=columns))
        return Tensor(chunk_key(self.name, box), box.sizes, tuple(pieces), (len(indices) * rows, columns))

    def window(self, box: Box) -> Rectangle:
        """What a box has of each of its members."""
        count = len(self.lead)
        row, rows = box.offsets[count], box.sizes[count]
        return (
            Rectangle(row, 0, rows, 1)
            if self.one.is_vector
            else Rectangle(row, box.offsets[count + 1], rows, box.sizes[count + 1])
        )

    def indices(self, box: Box) -> Iterator[tuple[int, ...]]:
        """The members a box has parts of, in the order they lie in it."""
        starts = zip(box.offsets, box.sizes, self.lead, strict=False)
        return product(*(range(offset, offset + size) for offset, size, _ in starts))

    def _flat(self, index: tuple[int, ...]) -> int:
        number = 0
        for place, size in zip(index, self.lead, strict=True):
            number = number * size + place
        return number


def chunk_key(name: str, box: Box) -> Key:
    """``decoder.layers.mlp.linear_fc1.weight[3, 0, 0]``: a parameter and where in it the chunk begins."""
    return Key("", f"{name}{list(box.offsets)}")


def is_per_layer(names: Iterable[str]) -> bool:
    """Whether layers have parameters of their own there."""
    return any(LAYER.match(name) for name in names)


def stacks(model: Model, vocab_rows: int, *, per_layer: bool) -> dict[str, Stack]:
    """All parameters of a model by name; a tied head is none."""
    found: dict[str, dict[tuple[int, ...], Parameter]] = defaultdict(dict)
    for rule, layer, expert in model.rules():
        rows = vocab_rows if rule in (EMBEDDING, HEAD) else None
        parameter = whole_parameter(model, rule, layer, expert, vocab_rows=rows)
        for name, index in positions(model, rule, layer, expert, per_layer=per_layer):
            found[name][index] = parameter
    return {name: Stack(name, _lead(members), members) for name, members in found.items()}


def _lead(members: dict[tuple[int, ...], Parameter]) -> tuple[int, ...]:
    return tuple(last + 1 for last in max(members))


def positions(
    model: Model, rule: Rule, layer: int | None, expert: int | None, *, per_layer: bool
) -> tuple[Position, ...]:
    """Where the parameter that a rule makes of a layer (and expert) is: in one stack, or in two that are equal."""
    if layer is None:
        return (Position(rule.megatron, ()),)
    prefix, index = (f"decoder.layers.{layer}.", ()) if per_layer else ("decoder.layers.", (layer,))
    if expert is not None:
        return (Position(f"{prefix}mlp.experts.experts.{rule.megatron}", (*index, expert)),)
    name = rule.spelled(transformer_engine=True)
    names = (NORM, FUSED_NORM) if name == NORM and model.dims.has_experts(layer) else (name,)
    return tuple(Position(prefix + each, index) for each in names)
