"""Rows of a pretraining set: its documents as one stream of tokens, cut into rows of equal length.

Row r holds the tokens ``r * S`` to ``r * S + S`` of the stream, the last of which is also the first of the next row: S
targets in each row, as in Megatron's pretraining. The last row is shorter; no token is left out. Where a document ends
is read from the document index of the ``.idx``, and the first token of a document is nobody's target.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.ledger import Ledger
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.io.indexed import IndexedDataset, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, PackedDataset, PieceIndex


class DocumentRows(PackedDataset):
    """The pair ``prefix`` in rows of ``seq_length`` targets; ``isolated``: documents of a row do not see each other.

    ``end_token_id`` says where documents end if the index does not know: all of the text is one document in it.
    """

    def __init__(
        self,
        prefix: Path,
        seq_length: int,
        *,
        isolated: bool,
        manifest: Manifest | None = None,
        end_token_id: int | None = None,
    ) -> None:
        stored = IndexedDataset(prefix)
        self.boundaries_from_index = len(stored.document_indices) > 2
        self._stream = stored.tokens
        if len(self._stream) < 2:
            raise DataError("SP205", f"{prefix} holds no text to train on", help="look at the file it was made from")
        ends = _document_ends(stored)
        if not self.boundaries_from_index and end_token_id is not None:
            ends = np.unique(np.append(np.flatnonzero(self._stream == end_token_id) + 1, ends))
        self.num_documents = len(ends)
        self._starts = np.arange(0, len(self._stream) - 1, seq_length, dtype=np.int64)
        self._ends = np.minimum(self._starts + seq_length + 1, len(self._stream))
        lengths, row = _cut(self._starts, self._ends, ends)
        number = np.arange(len(row), dtype=np.int64)
        source = np.zeros(len(row), np.int32)
        self.paths = DataSetPaths(prefix)
        self.pieces = PieceIndex(row, number, lengths, lengths - 1, source, row + 1, (f"{prefix.name}, row",))
        self.offsets = np.searchsorted(row, np.arange(len(self._starts) + 1))
        mask = MaskMode.BLOCK_CAUSAL if isolated else MaskMode.CAUSAL
        self.manifest = _manifest(prefix, manifest, self._stream, mask, len(self._starts), len(row))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> PackedSequence:
        row = range(len(self))[row]
        ids = np.array(self._stream[self._starts[row] : self._ends[row]], np.int32)
        lengths = self.pieces.length[self.offsets[row] : self.offsets[row + 1]]
        return PackedSequence(ids, ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), 0)

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        return (self._ends - self._starts).astype(np.int32)


def _document_ends(stored: IndexedDataset) -> NDArray[np.int64]:
    """Where the documents that have tokens end in the stream, int64, strictly rising."""
    ends = np.concatenate([[0], np.cumsum(stored.lengths, dtype=np.int64)])
    of_documents: NDArray[np.int64] = np.unique(ends[stored.document_indices[1:]])
    return of_documents[of_documents > 0]


def _cut(
    starts: NDArray[np.int64], ends: NDArray[np.int64], cuts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lengths of the pieces that ``cuts`` make of every row, and the row of each piece."""
    first, last = np.searchsorted(cuts, starts, "right"), np.searchsorted(cuts, ends, "left")
    counts = last - first + 1
    row = np.repeat(np.arange(len(starts)), counts)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # number of the piece in its row
    is_last = place == counts[row] - 1
    cut = first[row] + place
    padded = np.append(cuts, 0)
    piece_ends = np.where(is_last, ends[row], padded[np.minimum(cut, len(cuts))])
    piece_starts = np.where(place == 0, starts[row], padded[cut - 1])
    return (piece_ends - piece_starts).astype(np.int32), row


def _manifest(
    prefix: Path, manifest: Manifest | None, stream: NDArray[np.integer], mask: MaskMode, rows: int, pieces: int
) -> Manifest:
    if manifest is not None:
        return replace(manifest, packed=True, mask=mask, num_rows=rows, num_samples=pieces)
    vocab_size = int(stream.max(initial=0)) + 1
    return Manifest(
        packed=True,
        seq_length=None,
        strategy=None,
        mask=mask,
        seed=0,
        num_rows=rows,
        num_samples=pieces,
        ledger=Ledger(),
        tokenizer=TokenizerRecord("", "", vocab_size, None, 0),
        recipe={},
        inputs={},
        files={idx_path(prefix).name: FileRecord.of(idx_path(prefix))},
        seqpack_version="",
        kind="pretrain",
    )
