"""Packed files that other programs wrote, without a manifest: read in place, and seen as a data set of ours.

MindSpeed-LLM's three pairs ``<prefix>_packed_{input_ids,labels,attention_mask}_document`` and Pai-Megatron-Patch's one
pair ``<prefix>_text_document``. Where samples begin is found once, in one pass over the files, from what their writer
marked: the mask of ``--neat-pack``, which numbers the samples of a row, or Pai's negative ids; never from a token's id.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import FormatError
from seqpack.core.ledger import Ledger
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.io.indexed import IndexedDataset, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import COLUMNS, DataSetPaths, PackedDataset, PieceIndex
from seqpack.io.pai import from_pai, pai_prefix


class ForeignDataset(PackedDataset):
    """Rows of another program's files. ``manifest`` says what could be found out; its tokenizer has no fingerprint."""

    def __init__(self, prefix: Path, rows: ForeignRows) -> None:
        remembered = _Boundaries.remembered(prefix, rows)
        self.boundaries_from = boundaries_file(prefix) if remembered else None
        found = remembered or _Boundaries.of(rows)
        if not remembered:
            found.remember(prefix, rows)
        lengths, targets, counts, vocab_size = found.lengths, found.targets, found.counts, int(found.vocab_size)
        row = np.repeat(np.arange(len(rows)), counts)
        number = np.arange(len(row), dtype=np.int64)
        source = np.zeros(len(row), np.int32)
        self.paths = DataSetPaths(prefix)
        self.pieces = PieceIndex(row, number, lengths, targets, source, row + 1, (rows.name,))
        self.manifest = _manifest(rows, vocab_size, len(row))
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> PackedSequence:
        return self._rows[range(len(self))[row]]

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        return self._rows.lengths


class ForeignRows:
    """Rows of ``files``; ``read`` gives one with its boundaries."""

    def __init__(
        self,
        name: str,
        files: list[Path],
        lengths: NDArray[np.int32],
        mask: MaskMode | None,
        read: Callable[[int], PackedSequence],
    ) -> None:
        self.name = name
        self.files = files
        self.lengths = lengths
        self.mask = mask
        self._read = read

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> PackedSequence:
        return self._read(row)


def open_foreign(prefix: Path) -> ForeignDataset | None:
    """The set of another program under this prefix, or None if its files are not there.

    Raises FormatError if the files contradict each other.
    """
    paths = DataSetPaths.of(prefix)
    if all(idx_path(paths.column(name)).is_file() for name in COLUMNS):
        return ForeignDataset(paths.prefix, _mindspeed_rows(paths))
    pair = pai_prefix(prefix)
    if idx_path(pair).is_file() and is_pai(IndexedDataset(pair)):
        stored = IndexedDataset(pair)
        lengths = (stored.lengths // 2).astype(np.int32)
        files = [idx_path(pair)]
        rows = ForeignRows(pair.name, files, lengths, MaskMode.BLOCK_CAUSAL, lambda row: from_pai(stored[row]))
        return ForeignDataset(prefix, rows)
    return None


def is_pai(stored: IndexedDataset) -> bool:
    """Whether the first row ends a sample Pai's way; ids of text are never negative."""
    return len(stored) > 0 and bool((stored[0][: len(stored[0]) // 2] < 0).any())


def _mindspeed_rows(paths: DataSetPaths) -> ForeignRows:
    columns = {name: IndexedDataset(paths.column(name)) for name in COLUMNS}
    input_ids, labels, mask = (columns[name] for name in COLUMNS)
    for name, column in columns.items():
        if not np.array_equal(column.lengths, input_ids.lengths):
            raise FormatError(
                "SP105",
                f"{paths.column(name)} and {paths.column('input_ids')} have rows of other lengths",
                help="they are not of one run: make them again",
            )
    numbered = any(bool((mask[row] != 1).any()) for row in range(len(mask)))
    equal = len(input_ids) > 0 and bool((input_ids.lengths == input_ids.lengths[0]).all())
    mode = MaskMode.BLOCK_CAUSAL if numbered else MaskMode.CAUSAL if equal else None

    def read(row: int) -> PackedSequence:
        ids, row_labels = (np.asarray(x[row], np.int32) for x in (input_ids, labels))
        bounds, num_padding = mask_boundaries(np.asarray(mask[row])) if numbered else _one_segment(len(ids))
        return PackedSequence(ids, row_labels, bounds, num_padding)

    files = [idx_path(paths.column(name)) for name in COLUMNS]
    # Rows that lost everything to the length are empty documents in files of theirs.
    kept = np.flatnonzero(input_ids.lengths)
    return ForeignRows(
        f"{paths.prefix.name}_packed", files, input_ids.lengths[kept], mode, lambda row: read(int(kept[row]))
    )


def mask_boundaries(mask_T: NDArray[np.integer]) -> tuple[NDArray[np.int32], int]:
    """Boundaries and padding of one row from its numbers: [1, 1, 2, 0] -> [0, 2, 3, 4], 1.

    Raises FormatError if padding is not last or a number comes back.
    """
    changes = np.flatnonzero(np.diff(mask_T)) + 1
    numbers = mask_T[np.concatenate([[0], changes])]
    is_padding = numbers == 0
    if is_padding[:-1].any() or (np.diff(numbers[~is_padding]) <= 0).any() or (numbers < 0).any():
        raise FormatError(
            "SP105",
            f"a mask that numbers its samples {numbers.tolist()[:8]} is not one of --neat-pack",
            help="make the files again",
        )
    bounds = np.concatenate([[0], changes, [len(mask_T)]]).astype(np.int32)
    return bounds, int(bounds[-1] - bounds[-2]) if is_padding[-1] else 0


def _one_segment(length: int) -> tuple[NDArray[np.int32], int]:
    return np.array([0, length], np.int32), 0


def boundaries_file(prefix: Path) -> Path:
    """Where the boundaries of a set without a manifest are kept, beside it, if that folder may be written to."""
    return prefix.with_name(f"{prefix.name}_boundaries.npz")


@dataclass(frozen=True, slots=True)
class _Boundaries:
    """Length and targets of every piece, pieces of every row, and the largest id + 1."""

    lengths: NDArray[np.int32]
    targets: NDArray[np.int32]
    counts: NDArray[np.int64]
    vocab_size: NDArray[np.int64]

    @classmethod
    def of(cls, rows: ForeignRows) -> _Boundaries:
        """In one pass over the rows."""
        lengths, targets, counts, vocab_size = [], [], np.zeros(len(rows), np.int64), 0
        for number in range(len(rows)):
            row = rows[number]
            vocab_size = max(vocab_size, int(row.input_ids.max()) + 1)
            bounds = row.cu_seqlens[: row.num_samples + 1]
            trained = row.labels != IGNORE_INDEX
            trained[bounds[:-1]] = False  # nothing predicts the first token of a sample
            ends = np.concatenate([[0], np.cumsum(trained)])
            lengths.append(np.diff(bounds))
            targets.append(np.diff(ends[bounds]))
            counts[number] = row.num_samples
        joined = [
            np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32) for parts in (lengths, targets)
        ]
        return cls(joined[0], joined[1], counts, np.array(vocab_size))

    @classmethod
    def remembered(cls, prefix: Path, rows: ForeignRows) -> _Boundaries | None:
        """Those that an earlier run found in the same files, or None."""
        try:
            with np.load(boundaries_file(prefix)) as stored:
                if str(stored["key"]) == _key(rows):
                    return cls(*(stored[name] for name in cls.__slots__))
        except (OSError, ValueError, KeyError, BadZipFile):
            pass  # there is none, or it was cut off
        return None

    def remember(self, prefix: Path, rows: ForeignRows) -> None:
        """Keep them beside the set; where that is not allowed, the next run looks again."""
        path = boundaries_file(prefix)
        partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
        with contextlib.suppress(OSError):
            np.savez(partial, key=_key(rows), **{name: getattr(self, name) for name in self.__slots__})
            partial.replace(path)


def _key(rows: ForeignRows) -> str:
    """Changes when a file does: sizes and times of all of them."""
    facts = []
    for index in rows.files:
        for path in (index, index.with_suffix(".bin")):
            status = path.stat()
            facts.append(f"{path.name}:{status.st_size}:{status.st_mtime_ns}")
    return " ".join(facts)


def _manifest(rows: ForeignRows, vocab_size: int, num_samples: int) -> Manifest:
    lengths = rows.lengths
    fixed: dict[str, Any] = {"ledger": Ledger(), "recipe": {}, "inputs": {}, "strategy": None, "seed": 0}
    return Manifest(
        packed=rows.mask is not None,
        seq_length=int(lengths[0]) if rows.mask is not None and len(lengths) else None,
        mask=rows.mask,
        num_rows=len(rows),
        num_samples=num_samples,
        tokenizer=TokenizerRecord("", "", vocab_size, None, 0),
        files={path.name: FileRecord.of(path) for path in rows.files},
        seqpack_version="",
        **fixed,
    )
