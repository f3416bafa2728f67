"""``seqpack stats PREFIX``: a set that exists, and what other layouts of its samples would cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.io.packed import PackedDataset
from seqpack.io.sets import DocumentSet, open_set
from seqpack.pipeline.forecast import BATCH_SIZE, Stats, forecast
from seqpack.pipeline.layouts import Layout, concatenated, layout, plan_quality, suggest_length


def set_stats(prefix: Path, *, seq_length: int | None, seed: int, batch_size: int = BATCH_SIZE) -> Stats:
    """Measure the set ``prefix`` from its piece index; no token is read.

    Layouts are for ``seq_length``, else for the set's own, else for the shortest power of two that every sample fits:
    samples of a set cannot be cut any more. Those that are longer count as cut, and are in no layout, as ``pack
    --on-overlong drop`` would have it. Documents are taken as cut at the length, which is suggested as for raw files.
    Raises as ``open_set``, and ConfigError if no sample fits.
    """
    dataset = open_set(prefix)
    own: tuple[Layout, ...]
    if isinstance(dataset, DocumentSet):
        lengths = _document_lengths(dataset)
        length = seq_length or suggest_length(lengths)
        fitted, own = np.minimum(lengths, length), (concatenated(lengths, length),)
    else:
        lengths = _sample_lengths(dataset)
        length = seq_length or dataset.manifest.seq_length or suggest_length(lengths, kept=1.0)
        fitted, own = lengths[lengths <= length], _own_layouts(dataset, length)
    if not len(fitted):
        raise ConfigError(
            "SP008", f"no sample of {prefix} fits --seq-length {length:,}", help=f"the shortest has {lengths.min():,}"
        )
    manifest = dataset.manifest
    return Stats(
        files=tuple(manifest.inputs),
        engine="",
        engine_refused="",
        handler=manifest.recipe["handler"],
        prompt_type=manifest.recipe.get("prompt_type", "none"),
        ledger=manifest.ledger,
        longest=_longest(dataset, length),
        source="pretraining text" if manifest.kind == "pretrain" else "packed set" if own else "tokenized set",
        **forecast(
            lengths,
            fitted,
            seq_length=length,
            was_given=seq_length is not None,
            seed=seed,
            batch_size=batch_size,
            cut=int((lengths > length).sum()),
            first=own,
        ),
    )


def _sample_lengths(dataset: PackedDataset) -> NDArray[np.int64]:
    """Tokens of each sample in the order of the raw data; pieces of one sample count together."""
    pieces = dataset.pieces
    lengths = np.bincount(pieces.sample, weights=pieces.length).astype(np.int64)
    return lengths[lengths > 0]


def _document_lengths(dataset: DocumentSet) -> NDArray[np.int64]:
    lengths = np.concatenate([column.lengths for column in dataset.columns.values()]).astype(np.int64)
    if not lengths.any():
        raise DataError("SP109", f"{dataset.paths.prefix} has no tokens", help="check what it was made from")
    return lengths[lengths > 0]


def _own_layouts(dataset: PackedDataset, asked: int) -> tuple[Layout, ...]:
    """The packs there are; nothing for a set that is not packed."""
    manifest = dataset.manifest
    if not manifest.packed or manifest.seq_length is None:
        return ()
    length, pieces = manifest.seq_length, dataset.pieces
    quality = plan_quality(pieces.length.astype(np.int64), dataset.offsets, seq_length=length)
    split = len(pieces) - len(np.unique(pieces.sample))
    name = f"this set, {manifest.strategy}" if length == asked else f"this set at {length:,}"
    cut = manifest.ledger.truncated.samples + split
    return (layout(name, len(dataset), len(dataset) * length, int(pieces.length.sum()), cut, quality),)


def _longest(dataset: PackedDataset | DocumentSet, length: int) -> tuple[tuple[str, int], ...]:
    """The three longest samples that do not fit."""
    if isinstance(dataset, DocumentSet):
        return ()
    pieces = dataset.pieces
    longest = np.argsort(-pieces.length, kind="stable")[:3]
    return tuple(
        (pieces.key(piece), int(pieces.length[piece])) for piece in longest.tolist() if pieces.length[piece] > length
    )
