"""A set read through a plan: rows are its packs, tokens stay where they lie, so that no second copy is needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.ledger import Ledger
from seqpack.core.plan import PackPlan
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.io.packed import PackedDataset, PieceIndex

LEFT_OUT = "longer than --seq-length"
"""The reason the ledger gives for samples that a plan does not place."""


class PlannedDataset(PackedDataset):
    """The packs that ``pack`` would write of ``source`` after this plan: the same rows, boundaries, labels and ledger.

    The plan numbers the samples of ``source`` in the order of the raw data. ``packing`` are the options it was made
    with, ``seed`` among them.
    """

    def __init__(
        self, source: PackedDataset, plan: PackPlan, *, strategy: str, mask: MaskMode, packing: Mapping[str, Any]
    ) -> None:
        self.paths = source.paths
        self._source = source
        self._order = source.pieces.order
        self._begins = source.piece_starts
        self._place(plan)
        is_placed = np.zeros(len(self._order), bool)
        is_placed[plan.sample] = True
        left_out = self._order[~is_placed]
        self.num_left_out = len(left_out)
        ledger = ledger_without(source.manifest.ledger, source.pieces, left_out)
        if plan.cut_start is not None:
            ledger.untrain(ledger.trained - int(self.pieces.num_targets.sum()))
        ledger.padding = plan.padding
        self.manifest = replace(
            source.manifest,
            packed=True,
            seq_length=plan.seq_length,
            strategy=strategy,
            mask=mask,
            seed=packing["seed"],
            num_rows=len(plan),
            num_samples=ledger.kept.samples,
            ledger=ledger,
            packing={name: value for name, value in packing.items() if name != "seed"},
        )

    def _place(self, plan: PackPlan) -> None:
        self.plan = plan
        piece = self._order[plan.sample]
        row = np.repeat(np.arange(len(plan)), np.diff(plan.offsets))
        self.offsets = plan.offsets.astype(np.int64)
        self.pieces = self._source.pieces.take(piece, row)
        self._starts = self._begins[piece] + plan.start
        if plan.cut_start is not None and plan.cut_length is not None:
            self.pieces = _cut(self.pieces, plan.cut_start, plan.cut_length, self._source.labels, self._starts)

    def replanned(self, plan: PackPlan) -> PlannedDataset:
        """The same samples through another plan with as many packs: nothing but who is where may differ."""
        other = copy.copy(self)
        other._place(plan)
        return other

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        return np.full(len(self), self.plan.seq_length, np.int32)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All ids of the source, where ``piece_starts`` finds the pieces."""
        return self._source.tokens

    @property
    def labels(self) -> NDArray[np.int32]:
        return self._source.labels

    @property
    def piece_starts(self) -> NDArray[np.int64]:
        return self._starts

    @property
    def layout(self) -> tuple[NDArray[np.integer], ...]:
        packs = np.array([self.plan.seq_length, self.plan.align])
        return self.pieces.length, self.pieces.num_targets, self._starts, self.offsets, packs

    def _columns(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        pieces = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        length = self.pieces.length[pieces]
        ends = np.cumsum(self._places(length))
        places = ends - self._places(length)
        input_ids = np.full(self.plan.seq_length, self.manifest.tokenizer.pad_token_id, np.int32)
        labels = np.full(self.plan.seq_length, IGNORE_INDEX, np.int32)
        spans = (places.tolist(), self._starts[pieces].tolist(), length.tolist())
        for place, start, tokens in zip(*spans, strict=True):
            input_ids[place : place + tokens] = self._source.tokens[start : start + tokens]
            labels[place : place + tokens] = self._source.labels[start : start + tokens]
        if self.plan.cut_start is not None:
            labels[places[self.plan.cut_start[pieces] > 0]] = IGNORE_INDEX
        return input_ids, labels


def ledger_without(ledger: Ledger, pieces: PieceIndex, left_out: NDArray[np.integer]) -> Ledger:
    """The ledger of a set without some of its pieces."""
    ledger = copy.deepcopy(ledger)
    counts = pieces.length[left_out].tolist(), pieces.num_targets[left_out].tolist()
    for num_tokens, num_targets in zip(*counts, strict=True):
        ledger.unkeep(LEFT_OUT, num_tokens, num_targets)
    ledger.check()
    return ledger


def _cut(
    pieces: PieceIndex,
    start: NDArray[np.integer],
    length: NDArray[np.integer],
    labels: NDArray[np.int32],
    begins: NDArray[np.int64],
) -> PieceIndex:
    """The parts of these pieces that a plan takes; targets are counted again where a part is not the whole."""
    num_targets = pieces.num_targets.copy()
    for part in np.flatnonzero(length < pieces.length).tolist():
        inside = labels[begins[part] + 1 : begins[part] + int(length[part])]
        num_targets[part] = np.count_nonzero(inside != IGNORE_INDEX)
    return pieces.cut(start, length, num_targets)
