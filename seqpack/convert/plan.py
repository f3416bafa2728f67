"""From two layouts of one model to the copies between them, proven complete before a byte is read.

Proven is: every element of every target tensor is written exactly once, and every element of every source tensor is
copied, compared with an equal copy, or padding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from seqpack.convert.tensors import Key, Piece, Tensor


class Rectangle(NamedTuple):
    row: int
    column: int
    rows: int
    columns: int


class Copy(NamedTuple):
    """A rectangle of a source tensor, and where it goes in the target: ``transposed``, its rows become columns."""

    source: Key
    row: int
    column: int
    rows: int
    columns: int
    at_row: int
    at_column: int
    transposed: bool

    @property
    def taken(self) -> Rectangle:
        return Rectangle(self.row, self.column, self.rows, self.columns)

    @property
    def filled(self) -> Rectangle:
        rows, columns = (self.columns, self.rows) if self.transposed else (self.rows, self.columns)
        return Rectangle(self.at_row, self.at_column, rows, columns)


@dataclass(frozen=True, slots=True)
class Plan:
    """``copies`` fill each target tensor, in the order of their rows there. ``repeats`` are source tensors, or parts of
    them, that hold what another part of the source holds too: the first of a pair is not copied, only compared."""

    targets: tuple[Tensor, ...]
    copies: Mapping[Key, tuple[Copy, ...]]
    repeats: tuple[tuple[Held, Held], ...]


class Held(NamedTuple):
    """A piece and the source tensor it lies in."""

    key: Key
    piece: Piece

    @property
    def place(self) -> Rectangle:
        """Where it lies in that tensor."""
        return Rectangle(self.piece.at_row, self.piece.at_column, self.piece.height, self.piece.width)


def make_plan(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Plan:
    """The copies that make ``targets`` of ``sources``; AssertionError if anything would be lost or written twice."""
    index = _Index(sources)
    copies = {target.key: tuple(_copies(target, index)) for target in targets}
    plan = Plan(tuple(targets), copies, tuple(index.repeats))
    _prove(plan, sources)
    return plan


class _Index:
    """The pieces of the source by Hugging Face tensor, sorted by row; equal rectangles only once."""

    def __init__(self, sources: Iterable[Tensor]) -> None:
        first: dict[tuple[str, int, int, int, int], Held] = {}
        self.repeats: list[tuple[Held, Held]] = []
        held_by_name: dict[str, list[Held]] = defaultdict(list)
        for tensor in sources:
            for piece in tensor.pieces:
                if piece.is_padding:
                    continue
                held = Held(tensor.key, piece)
                if (known := first.setdefault(piece[:5], held)) is not held:
                    self.repeats.append((held, known))
                else:
                    held_by_name[piece.name].append(held)
        for each in held_by_name.values():
            each.sort(key=lambda held: (held.piece.row, held.piece.column))
        self._held = dict(held_by_name)
        self._starts = {name: [h.piece.row for h in held] for name, held in self._held.items()}
        self._tallest = {name: max(h.piece.rows for h in held) for name, held in self._held.items()}

    def overlapping(self, piece: Piece) -> Iterator[Held]:
        held, starts = self._held.get(piece.name, []), self._starts.get(piece.name, [])
        first = bisect_right(starts, piece.row - self._tallest.get(piece.name, 0))
        for number in range(first, len(held)):
            if starts[number] >= piece.row + piece.rows:
                return
            yield held[number]


def _copies(target: Tensor, index: _Index) -> list[Copy]:
    found = [copy for piece in target.pieces for held in index.overlapping(piece) if (copy := _meet(held, piece))]
    return sorted(found, key=lambda copy: (copy.at_row, copy.at_column))


def _meet(held: Held, wanted: Piece) -> Copy | None:
    """What of ``wanted`` lies in ``held``, as a copy from one place to the other."""
    have = held.piece
    row, column = max(have.row, wanted.row), max(have.column, wanted.column)
    rows = min(have.row + have.rows, wanted.row + wanted.rows) - row
    columns = min(have.column + have.columns, wanted.column + wanted.columns) - column
    if rows <= 0 or columns <= 0:
        return None
    source_row, source_column = _place(have, row, column)
    at_row, at_column = _place(wanted, row, column)
    if have.transposed:
        rows, columns = columns, rows
    transposed = have.transposed != wanted.transposed
    return Copy(held.key, source_row, source_column, rows, columns, at_row, at_column, transposed)


def _place(piece: Piece, row: int, column: int) -> tuple[int, int]:
    """Row and column, in the tensor that holds ``piece``, of an element of the Hugging Face tensor."""
    down, right = row - piece.row, column - piece.column
    if piece.transposed:
        down, right = right, down
    return piece.at_row + down, piece.at_column + right


def _prove(plan: Plan, sources: Iterable[Tensor]) -> None:
    for target in plan.targets:
        assert is_tiling((copy.filled for copy in plan.copies[target.key]), target.rows, target.columns), (
            f"{target.key} would not be written exactly once"
        )
    used: dict[Key, set[Rectangle]] = defaultdict(set)
    for copies in plan.copies.values():
        for copy in copies:
            used[copy.source].add(copy.taken)
    for held, _ in plan.repeats:
        used[held.key].add(held.place)
    for source in sources:
        padding = {Held(source.key, piece).place for piece in source.pieces if piece.is_padding}
        taken = used[source.key] | padding
        assert _covers(taken, source.rows, source.columns), f"{source.key} would not be used as a whole"


def is_tiling(rectangles: Iterable[Rectangle], rows: int, columns: int) -> bool:
    """Whether the rectangles cover ``rows`` by ``columns`` without a gap, an overlap or anything outside."""
    return _covers(rectangles, rows, columns, once=True)


def _covers(rectangles: Iterable[Rectangle], rows: int, columns: int, *, once: bool = False) -> bool:
    """Whether they cover ``rows`` by ``columns`` and nothing else; ``once``: without an overlap."""
    listed = list(rectangles)
    edges = sorted({0, columns} | {edge for each in listed for edge in (each.column, each.column + each.columns)})
    if edges[0] < 0 or edges[-1] > columns:
        return False
    for left, right in pairwise(edges):
        end = 0
        for each in sorted(each for each in listed if each.column <= left and right <= each.column + each.columns):
            if each.row > end or (once and each.row < end):
                return False
            end = max(end, each.row + each.rows)
        if end != rows:
            return False
    return True
