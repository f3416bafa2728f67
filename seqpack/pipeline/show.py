"""``seqpack show``: one pack as people can read it."""

from __future__ import annotations

import dataclasses
import re
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
from seqpack.io.manifest import Manifest
from seqpack.io.packed import PackedDataset
from seqpack.text.tokenizer import Tokenizer, tokenizer_fingerprint

TOKENS_SHOWN = 40
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
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
    """One token; ``target`` is the id the loss wants predicted here, None if nothing is.

    ``is_special`` marks added tokens, which are no text; ``segment`` is None on padding.
    """

    index: int
    token_id: int
    text: str
    label: int
    target: int | None
    position: int
    segment: int | None
    is_special: bool = False


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


def show(source: Path, row: int, *, with_tokens: bool = False, tokenizer_dir: Path | None = None) -> ShownPack:
    """Look at row ``row`` of the set ``source``; ConfigError if it has fewer rows."""
    return show_pack(PackedDataset.open(source), row, with_tokens=with_tokens, tokenizer_dir=tokenizer_dir)


def show_pack(
    dataset: PackedDataset, row: int, *, with_tokens: bool = False, tokenizer_dir: Path | None = None
) -> ShownPack:
    """Look at row ``row``; ConfigError if there are fewer rows, or ``tokenizer_dir`` is not the set's tokenizer."""
    check_row(row, len(dataset), str(dataset.paths.prefix))
    sequence = dataset[row]
    mask = dataset.manifest.mask or MaskMode.BLOCK_CAUSAL
    tokenizer, note = find_tokenizer(dataset.manifest, tokenizer_dir)
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


def check_row(row: int, num_rows: int, name: str, what: str = "packs") -> None:
    """ConfigError for a row that is not there."""
    if row >= num_rows:
        raise ConfigError("SP112", f"--pack {row}: {name} has {what} 0 to {num_rows - 1}")


def mask_picture(segments: Segments, *, num_padding: int = 0, cells: int) -> tuple[tuple[float, ...], ...]:
    """The mask as ``cells`` x ``cells`` shares, from 0 (no query of a cell sees any of its keys) to 1 (all see all).

    The cells on the diagonal of a full lower triangle are about one half. Padding (the last ``num_padding`` tokens) is
    left blank. Cost: tokens times cells.
    """
    return tuple(tuple(row) for row in mask_shares(segments, num_padding=num_padding, cells=cells).tolist())


def mask_shares(segments: Segments, *, num_padding: int = 0, cells: int) -> NDArray[np.float64]:
    """``mask_picture`` as an array ``[cells, cells]``."""
    ends = segments.attended.cu_seqlens
    edges = np.linspace(0, ends[-1], cells + 1).round().astype(np.int64)
    query_segment = np.searchsorted(ends, np.arange(ends[-1]), side="right") - 1
    first_key = ends[query_segment]
    shares = np.zeros((cells, cells))
    for row, (top, bottom) in enumerate(pairwise(edges.tolist())):
        query = np.arange(top, bottom)
        low = np.maximum(first_key[top:bottom, None], edges[None, :-1])
        high = np.minimum(query[:, None] + 1, edges[None, 1:])
        seen = np.maximum(high - low, 0)[query < ends[-1] - num_padding].sum(axis=0)
        shares[row] = seen / (np.diff(edges) * (bottom - top))
    return shares


def find_tokenizer(manifest: Manifest, directory: Path | None = None) -> tuple[Tokenizer | None, str]:
    """The tokenizer the set was made with, or why its texts cannot be shown.

    ``directory`` says where it is now; ConfigError SP302 if another one is there.
    """
    record = manifest.tokenizer
    if directory is not None:
        if tokenizer_fingerprint(directory) != record.fingerprint:
            raise ConfigError(
                "SP302", f"the tokenizer in {directory} is not the one this set was made with", help="check --tokenizer"
            )
        return Tokenizer(directory), ""
    try:
        if tokenizer_fingerprint(Path(record.path)) != record.fingerprint:
            return None, f"no texts: the tokenizer in {record.path} is not the one this set was made with"
        return Tokenizer(Path(record.path)), ""
    except (SeqpackError, OSError) as error:
        return None, f"no texts: {getattr(error, 'message', error)}; --tokenizer DIR says where it is now"


def beginning(tokenizer: Tokenizer | None, token_ids: NDArray[np.int32]) -> str:
    """The first words of some ids on one line; empty without a tokenizer."""
    return one_line(tokenizer.decode(token_ids[:TOKENS_SHOWN].tolist())).strip() if tokenizer else ""


def one_line(text: str) -> str:
    """Text of the data as it may be printed: no line ends, and nothing that a terminal obeys."""
    return _SPACE.sub(" ", text)


def token_texts(tokenizer: Tokenizer | None, token_ids: NDArray[np.int32]) -> tuple[list[str], list[bool]]:
    """Text of each id, and whether it is an added token; a part of a character is shown as its vocabulary entry."""
    if tokenizer is None:
        return [""] * len(token_ids), [False] * len(token_ids)
    special = set(tokenizer.added_tokens.values())
    known: dict[int, str] = {}
    for token_id in np.unique(token_ids).tolist():
        text = tokenizer.decode([token_id])
        known[token_id] = tokenizer.token_text(token_id) if "\ufffd" in text else text
    ids = token_ids.tolist()
    return [known[token_id] for token_id in ids], [token_id in special for token_id in ids]


def _samples(
    dataset: PackedDataset, row: int, sequence: PackedSequence, tokenizer: Tokenizer | None
) -> tuple[ShownSample, ...]:
    shown = []
    skipped = common_prefix(sequence)
    for number, piece in enumerate(range(int(dataset.offsets[row]), int(dataset.offsets[row + 1]))):
        start, length = int(sequence.cu_seqlens[number]), int(dataset.pieces.length[piece])
        text = beginning(tokenizer, sequence.input_ids[start + skipped : start + length])
        targets = int(dataset.pieces.num_targets[piece])
        shown.append(ShownSample(number, dataset.pieces.key(piece), length, targets, start, text))
    return tuple(shown)


def common_prefix(sequence: PackedSequence) -> int:
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
    texts, special = token_texts(tokenizer, sequence.input_ids)
    assert by_sample or positions[-1] == len(sequence) - 1
    return tuple(
        ShownToken(
            index,
            token_id,
            text,
            label,
            None if target == IGNORE_INDEX else target,
            position,
            number if number < sequence.num_samples else None,
            is_special,
        )
        for index, (token_id, label, target, position, number, text, is_special) in enumerate(
            zip(*(column.tolist() for column in columns), texts, special, strict=True)
        )
    )
