"""Pai-Megatron-Patch's packed files: one ``<prefix>_text_document`` pair, ids and labels in the same sequence.

A row is a sequence of ``2 * seq_length`` int32: the ids, the last one of each sample stored as ``-1 - id``, then the
labels, already shifted to the token that predicts them. Source: Pai's
``toolkits/sft_data_preprocessing/build_idxmap_sft_dataset.py``, which writes unsigned 16-bit items for small
vocabularies; those cannot hold the negative ids and are not written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import FormatError
from seqpack.core.segments import shift_labels
from seqpack.core.types import IGNORE_INDEX, PackedSequence
from seqpack.io.indexed import IndexedDataset, IndexedWriter


def pai_prefix(prefix: Path) -> Path:
    """Prefix of the ``.bin``/``.idx`` pair that belongs to the data set ``prefix``."""
    return prefix.with_name(prefix.name + "_text_document")


def write_pai(rows: Iterable[PackedSequence], prefix: Path) -> None:
    """Write packed rows of equal length as the pair ``<prefix>_text_document``."""
    with IndexedWriter(pai_prefix(prefix), np.int32) as writer:
        for row in rows:
            writer.append(to_pai(row), [2 * len(row)])


def to_pai(row: PackedSequence) -> NDArray[np.int32]:
    """One row as Pai stores it, int32 ``[2 * length]``."""
    input_ids = np.array(row.input_ids, np.int32)
    ends = row.cu_seqlens[1 : row.num_samples + 1] - 1
    input_ids[ends] = -1 - input_ids[ends]
    return np.concatenate([input_ids, shift_labels(row.labels, row.cu_seqlens)])


def from_pai(stored: NDArray[np.integer]) -> PackedSequence:
    """The row that ``to_pai`` stored. The label of a sample's first token is lost on the way, as nothing predicts it.

    Raises FormatError if the sequence marks no sample's end, or has an odd length.
    """
    length = len(stored) // 2
    input_ids, shifted = np.array(stored[:length], np.int32), np.array(stored[length:], np.int32)
    ends = np.flatnonzero(input_ids < 0) + 1
    if len(stored) % 2 or not len(ends):
        raise FormatError(
            "SP105",
            f"a sequence of {len(stored)} items with {len(ends)} ends of samples is no packed row of Pai's",
            help="its files hold ids and labels in one sequence, and mark the last token of each sample",
        )
    input_ids[ends - 1] = -1 - input_ids[ends - 1]
    labels = np.concatenate([[IGNORE_INDEX], shifted[:-1]]).astype(np.int32)
    num_padding = length - int(ends[-1])
    tail = [length] if num_padding else []
    return PackedSequence(input_ids, labels, np.concatenate([[0], ends, tail]).astype(np.int32), num_padding)


def read_pai(prefix: Path) -> list[PackedSequence]:
    """All rows of the pair ``<prefix>_text_document``; boundaries come from the marks, never from a token's id."""
    dataset = IndexedDataset(pai_prefix(prefix))
    return [from_pai(dataset[row]) for row in range(len(dataset))]
