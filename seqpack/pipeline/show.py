"""``seqpack show``: one pack as people can read it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, SeqpackError
from seqpack.core.mask import MaskMode
from seqpack.core.segments import Segments, position_ids, shift_labels
from seqpack.core.types import IGNORE_INDEX, PackedSequence
from seqpack.io.packed import PackedDataset
from seqpack.text.tokenizer import Tokenizer, tokenizer_fingerprint

TOKENS_SHOWN = 40
MASK_CELLS = 32


@dataclass(frozen=True, slots=True)
class ShownSample:
    """One sample of a pack; ``text`` is its beginning, empty if the tokenizer is not at hand."""

    number: int
    key: str
    num_tokens: int
    num_targets: int
    first: int
    text: str


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token; ``target`` is the id the loss wants predicted here, None if nothing is."""

    index: int
    token_id: int
    text: str
    label: int
    target: int | None
    position: int
    segment: int


@dataclass(frozen=True, slots=True)
class ShownPack:
    """Row ``row`` of a set. ``attended_share`` is the part of a full lower triangle that attention computes."""

    row: int
    num_rows: int
    num_tokens: int
    num_padding: int
    mask: MaskMode
    samples: tuple[ShownSample, ...]
    tokens: tuple[ShownToken, ...]
    attended_share: float
    picture: tuple[tuple[float, ...], ...]
    tokenizer_note: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def show(source: Path, row: int, *, with_tokens: bool = False) -> ShownPack:
    """Look at row ``row`` of the set ``source``; ConfigError if it has fewer rows."""
    dataset = PackedDataset.open(source)
    if row >= len(dataset):
        raise ConfigError("SP112", f"--pack {row}: {source} has packs 0 to {len(dataset) - 1}")
    sequence = dataset[row]
    mask = dataset.manifest.mask or MaskMode.BLOCK_CAUSAL
    tokenizer, note = _find_tokenizer(dataset)
    segments = Segments(sequence.cu_seqlens, mask)
    real = Segments(sequence.cu_seqlens[: sequence.num_samples + 1], mask)
    num_tokens = len(sequence) - sequence.num_padding
    return ShownPack(
        row=row,
        num_rows=len(dataset),
        num_tokens=num_tokens,
        num_padding=sequence.num_padding,
        mask=mask,
        samples=_samples(dataset, row, sequence, tokenizer),
        tokens=_tokens(sequence, segments, tokenizer) if with_tokens else (),
        attended_share=real.num_attended_pairs / (num_tokens * (num_tokens + 1) // 2),
        picture=mask_picture(segments, num_padding=sequence.num_padding, cells=min(MASK_CELLS, len(sequence))),
        tokenizer_note=note,
    )


def mask_picture(segments: Segments, *, num_padding: int = 0, cells: int) -> tuple[tuple[float, ...], ...]:
    """The mask as ``cells`` x ``cells`` shares, from 0 (no query of a cell sees any of its keys) to 1 (all see all).

    The cells on the diagonal of a full lower triangle are about one half. Padding (the last ``num_padding`` tokens) is
    left blank. Cost: tokens times cells.
    """
    ends = segments.attended.cu_seqlens
    edges = np.linspace(0, ends[-1], cells + 1).round().astype(np.int64)
    query_segment = np.searchsorted(ends, np.arange(ends[-1]), side="right") - 1
    first_key = ends[query_segment]
    rows = []
    for top, bottom in pairwise(edges.tolist()):
        query = np.arange(top, bottom)
        low = np.maximum(first_key[top:bottom, None], edges[None, :-1])
        high = np.minimum(query[:, None] + 1, edges[None, 1:])
        seen = np.maximum(high - low, 0)[query < ends[-1] - num_padding].sum(axis=0)
        rows.append(tuple((seen / (np.diff(edges) * (bottom - top))).tolist()))
    return tuple(rows)


def _samples(
    dataset: PackedDataset, row: int, sequence: PackedSequence, tokenizer: Tokenizer | None
) -> tuple[ShownSample, ...]:
    shown = []
    skipped = _common_prefix(sequence)
    for number, piece in enumerate(range(int(dataset.offsets[row]), int(dataset.offsets[row + 1]))):
        start, length = int(sequence.cu_seqlens[number]), int(dataset.pieces.length[piece])
        head = sequence.input_ids[start + skipped : start + min(length, skipped + TOKENS_SHOWN)].tolist()
        text = " ".join(tokenizer.decode(head).split()) if tokenizer else ""
        targets = int(dataset.pieces.num_targets[piece])
        shown.append(ShownSample(number, dataset.pieces.key(piece), length, targets, start, text))
    return tuple(shown)


def _common_prefix(sequence: PackedSequence) -> int:
    """Tokens that all samples of a pack begin with: the system text, which would fill the table with itself."""
    starts, ends = sequence.cu_seqlens[:-1], sequence.cu_seqlens[1:]
    samples = [sequence.input_ids[start:end] for start, end in zip(starts, ends, strict=True)][: sequence.num_samples]
    if len(samples) < 2:
        return 0
    shortest = min(map(len, samples))
    same = np.all([sample[:shortest] == samples[0][:shortest] for sample in samples], axis=0)
    return int(np.argmin(same)) if not same.all() else 0


def _tokens(sequence: PackedSequence, segments: Segments, tokenizer: Tokenizer | None) -> tuple[ShownToken, ...]:
    by_sample = segments.mask is MaskMode.BLOCK_CAUSAL
    positions = position_ids(segments.attended.cu_seqlens)
    targets = shift_labels(sequence.labels, sequence.cu_seqlens)
    segment = np.repeat(np.arange(len(segments.lengths)), segments.lengths)
    columns: list[NDArray[np.integer]] = [sequence.input_ids, sequence.labels, targets, positions, segment]
    assert by_sample or positions[-1] == len(sequence) - 1
    return tuple(
        ShownToken(
            index,
            token_id,
            tokenizer.decode([token_id]) if tokenizer else "",
            label,
            None if target == IGNORE_INDEX else target,
            position,
            number,
        )
        for index, (token_id, label, target, position, number) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    )


def _find_tokenizer(dataset: PackedDataset) -> tuple[Tokenizer | None, str]:
    """The tokenizer the set was made with, or why its texts cannot be shown."""
    record = dataset.manifest.tokenizer
    try:
        if tokenizer_fingerprint(Path(record.path)) != record.fingerprint:
            return None, f"no texts: the tokenizer in {record.path} is not the one this set was made with"
        return Tokenizer(Path(record.path)), ""
    except (SeqpackError, OSError) as error:
        return None, f"no texts: {getattr(error, 'message', error)}"
