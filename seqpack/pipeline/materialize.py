"""From a plan over tokenized samples to the files of a packed set, at copy speed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, no_progress
from seqpack.core.segments import cu_seqlens_from_lengths
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.io.indexed import IndexedDataset, IndexedWriter
from seqpack.io.packed import DataSetPaths, PieceIndex

TOKENS_PER_BATCH = 1 << 18
"""Tokens gathered at a time: bounds memory, and amortises the cost of a numpy call."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Tokenized samples: ``starts``, ``lengths`` ``[samples]`` say where each lies in ``input_ids`` and ``labels``."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]
    pieces: PieceIndex

    @property
    def lengths(self) -> NDArray[np.int32]:
        return self.pieces.length


def write_packs(
    plan: PackPlan,
    source: TokenSource,
    paths: DataSetPaths,
    *,
    mask: MaskMode,
    pad_token_id: int,
    progress: Progress = no_progress,
) -> int:
    """Write the three file pairs and the piece index of a packed set; returns the number of padding tokens.

    ``attention_mask`` is 1, 2, 3, ... per sample and 0 on padding under block-causal, 1 everywhere under causal, as
    MindSpeed-LLM writes it.
    """
    rows_per_batch = max(1, TOKENS_PER_BATCH // plan.seq_length)
    with (
        IndexedWriter(paths.column("input_ids")) as input_ids,
        IndexedWriter(paths.column("labels")) as labels,
        IndexedWriter(paths.column("attention_mask")) as attention_mask,
        progress("write", len(plan), "packs") as advance,
    ):
        for first in range(0, len(plan), rows_per_batch):
            last = min(first + rows_per_batch, len(plan))
            batch = _gather(plan, first, last, source)
            lengths = np.full(last - first, plan.seq_length)
            input_ids.append(batch.place(source.input_ids, fill=pad_token_id), lengths)
            labels.append(batch.place(source.labels, fill=IGNORE_INDEX), lengths)
            attention_mask.append(batch.mask(mask), lengths)
            forget_pages(source.input_ids, source.labels)
            advance(last - first)
    row = np.repeat(np.arange(len(plan)), np.diff(plan.offsets))
    pieces = source.pieces.take(plan.sample, row)
    if plan.cut_start is not None and plan.cut_length is not None:
        pieces = pieces.cut(plan.cut_start, plan.cut_length, _targets(plan, source))
    pieces.write(paths.index)
    return plan.padding


def packed_rows(plan: PackPlan, paths: DataSetPaths) -> Iterator[PackedSequence]:
    """The packs that ``write_packs`` has just written, one after the other."""
    input_ids, labels = IndexedDataset(paths.column("input_ids")), IndexedDataset(paths.column("labels"))
    for pack in range(len(plan)):
        lengths = plan.places_of(int(plan.offsets[pack]), int(plan.offsets[pack + 1]))
        num_padding = plan.seq_length - int(lengths.sum())
        segments = cu_seqlens_from_lengths([*lengths.tolist(), *([num_padding] if num_padding else [])])
        yield PackedSequence(input_ids[pack], labels[pack], segments, num_padding)


def forget_pages(*arrays: NDArray[np.int32]) -> None:
    """Give back the memory that reading mapped files took: else it grows to the size of the files."""
    for array in arrays:
        base: object = array.base
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some consecutive packs as flat positions: token ``come_from[i]`` of the source goes to ``go_to[i]`` here.

    Position ``covered[i]`` belongs to segment ``segment[i]``: a sample's own, and the padding that aligns the next.
    """

    num_tokens: int
    come_from: NDArray[np.int64]
    go_to: NDArray[np.int64]
    covered: NDArray[np.int64]
    segment: NDArray[np.int32]

    def place(self, values: NDArray[np.int32], *, fill: int) -> NDArray[np.int32]:
        placed = np.full(self.num_tokens, fill, np.int32)
        placed[self.go_to] = values[self.come_from]
        return placed

    def mask(self, mode: MaskMode) -> NDArray[np.int32]:
        if mode is MaskMode.CAUSAL:
            return np.ones(self.num_tokens, np.int32)
        placed = np.zeros(self.num_tokens, np.int32)
        placed[self.covered] = self.segment
        return placed


def _gather(plan: PackPlan, first: int, last: int, source: TokenSource) -> _Batch:
    begin, end = int(plan.offsets[first]), int(plan.offsets[last])
    length, places = plan.lengths_of(begin, end), plan.places_of(begin, end)
    sizes = np.diff(plan.offsets[first : last + 1])
    in_row = plan.offsets[first:last] - begin
    tokens_before, places_before = np.cumsum(length) - length, np.cumsum(places) - places
    target = places_before - np.repeat(places_before[in_row] - np.arange(last - first) * plan.seq_length, sizes)
    number = np.arange(end - begin) - np.repeat(in_row, sizes) + 1
    token = np.arange(length.sum())
    origin = source.starts[plan.sample[begin:end]] + plan.start[begin:end]
    go_to = token + np.repeat(target - tokens_before, length)
    covered = go_to if plan.align == 1 else np.arange(places.sum()) + np.repeat(target - places_before, places)
    return _Batch(
        (last - first) * plan.seq_length,
        token + np.repeat(origin - tokens_before, length),
        go_to,
        covered,
        np.repeat(number, places).astype(np.int32),
    )


def _targets(plan: PackPlan, source: TokenSource) -> NDArray[np.int32]:
    """Tokens of each piece that the loss is computed on, int32 ``[pieces]``."""
    targets = np.zeros(len(plan.sample), np.int32)
    for first, last in plan.batches(max(1, TOKENS_PER_BATCH // plan.seq_length)):
        begin, end = int(plan.offsets[first]), int(plan.offsets[last])
        length = plan.lengths_of(begin, end)
        before = np.cumsum(length) - length
        origin = source.starts[plan.sample[begin:end]] + plan.start[begin:end]
        labels = source.labels[np.arange(length.sum()) + np.repeat(origin - before, length)]
        targets[begin:end] = np.add.reduceat(labels != IGNORE_INDEX, before)
        forget_pages(source.labels)
    return targets
