"""From a plan over tokenized samples to the files of a packed set, at copy speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.ledger import Ledger
from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, no_progress
from seqpack.core.segments import cu_seqlens_from_lengths
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence, running_sum
from seqpack.io.indexed import IndexedDataset, IndexedWriter
from seqpack.io.packed import DataSetPaths, PieceIndex, PieceIndexWriter
from seqpack.pipeline.table import Pieces, Table, TokenSource, pieces_of_table, take_rows

TOKENS_PER_BATCH = 1 << 18
"""Tokens gathered at a time: bounds memory, and amortises the cost of a numpy call."""


def write_packs(
    plan: PackPlan,
    source: TokenSource,
    paths: DataSetPaths,
    *,
    ledger: Ledger,
    mask: MaskMode,
    pad_token_id: int,
    progress: Progress = no_progress,
) -> None:
    """Write the three file pairs and the piece index of a packed set; the ledger gets its padding.

    ``attention_mask`` is 1, 2, 3, ... per sample and 0 on padding under block-causal, 1 everywhere under causal, as
    MindSpeed-LLM writes it. Where a sample is cut, the first token of the later piece has nothing before it that it
    could be predicted from: it loses its label, and the ledger counts it as context.
    """
    rows_per_batch = max(1, TOKENS_PER_BATCH // plan.seq_length)
    with_start = source.has_parts or plan.cut_start is not None
    with (
        IndexedWriter(paths.column("input_ids")) as input_ids,
        IndexedWriter(paths.column("labels")) as labels,
        IndexedWriter(paths.column("attention_mask")) as attention_mask,
        PieceIndexWriter(paths.index, source.sources, with_start=with_start) as pieces,
        progress("write", len(plan), "packs") as advance,
    ):
        for first in range(0, len(plan), rows_per_batch):
            last = min(first + rows_per_batch, len(plan))
            batch = _Batch.of(plan, first, last, source)
            lengths = np.full(last - first, plan.seq_length)
            ids, targets = source.gather(batch.places, batch.num_tokens, pad_token_id)
            if plan.cut_start is not None:
                ledger.untrain(batch.unlabel_cuts(targets))
            input_ids.append(ids, lengths)
            labels.append(targets, lengths)
            attention_mask.append(batch.mask(mask), lengths)
            pieces.add(batch.pieces(plan, first, targets, source))
            advance(last - first)
    ledger.padding = plan.padding


def packed_rows(plan: PackPlan, paths: DataSetPaths) -> Iterator[PackedSequence]:
    """The packs that ``write_packs`` has just written, one after the other."""
    input_ids, labels = IndexedDataset(paths.column("input_ids")), IndexedDataset(paths.column("labels"))
    for pack in range(len(plan)):
        lengths = plan.places_of(int(plan.offsets[pack]), int(plan.offsets[pack + 1]))
        num_padding = plan.seq_length - int(lengths.sum())
        segments = cu_seqlens_from_lengths([*lengths.tolist(), *([num_padding] if num_padding else [])])
        yield PackedSequence(input_ids[pack], labels[pack], segments, num_padding)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some consecutive packs: piece ``i``, ``length[i]`` tokens of ``rows[i]``, goes to ``place[i]`` of ``num_tokens``.

    ``row`` is the pack of each piece and ``segment`` its number there, from 1; it takes ``taken[i]`` places, with the
    padding that aligns the next.
    """

    num_tokens: int
    rows: Table
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    taken: NDArray[np.int64]
    place: NDArray[np.int64]
    row: NDArray[np.int64]
    segment: NDArray[np.int64]

    @classmethod
    def of(cls, plan: PackPlan, first: int, last: int, source: TokenSource) -> _Batch:
        begin, end = int(plan.offsets[first]), int(plan.offsets[last])
        sizes = np.diff(plan.offsets[first : last + 1])
        first_piece = np.repeat(plan.offsets[first:last] - begin, sizes)
        rows = take_rows(source.table, plan.sample[begin:end])
        length, taken = plan.lengths_of(begin, end), plan.places_of(begin, end)
        before: NDArray[np.int64] = np.cumsum(taken) - taken  # places of the batch before each piece
        row = np.repeat(np.arange(last - first), sizes)
        return cls(
            (last - first) * plan.seq_length,
            rows,
            rows["start"] + plan.start[begin:end].astype(np.int64),
            length,
            taken,
            row * plan.seq_length + before - before[first_piece],
            row,
            np.arange(end - begin) - first_piece + 1,
        )

    def pieces(self, plan: PackPlan, first_row: int, labels: NDArray[np.int32], source: TokenSource) -> PieceIndex:
        """The index of these packs; of pieces that are not whole samples, targets are counted in ``labels``."""
        pieces = pieces_of_table(self.rows, self.row + first_row, source.sources, with_start=source.has_parts)
        if plan.cut_start is None:
            return pieces
        targets = running_sum(labels != IGNORE_INDEX)
        num_targets = targets[self.place + self.length] - targets[self.place + 1]  # the first is never one
        return pieces.cut(self.start - self.rows["start"], self.length, num_targets.astype(np.int32))

    @property
    def places(self) -> Pieces:
        """What ``TokenSource.gather`` takes."""
        columns = (self.rows["chunk"], self.start, self.length, self.place)
        return zip(*(values.tolist() for values in columns), strict=True)

    def unlabel_cuts(self, labels: NDArray[np.int32]) -> int:
        """Take away the labels of tokens that samples are cut before; returns how many had one."""
        first = self.place[self.start > self.rows["start"]]
        had = int(np.count_nonzero(labels[first] != IGNORE_INDEX))
        labels[first] = IGNORE_INDEX
        return had

    def mask(self, mode: MaskMode) -> NDArray[np.int32]:
        if mode is MaskMode.CAUSAL:
            return np.ones(self.num_tokens, np.int32)
        ends = np.append(self.place[1:], self.num_tokens)  # of each piece with the padding behind it
        room = ends - self.place
        values = np.stack([self.segment, np.zeros_like(self.segment)], axis=1).ravel()
        return np.repeat(values.astype(np.int32), np.stack([self.taken, room - self.taken], axis=1).ravel())
