"""Megatron's IndexedDataset files, without torch: items back to back in ``.bin``, where they start in ``.idx``.

``.idx``, little endian: ``MMIDIDX\\0\\0``, u64 version 1, u8 type code, u64 sequences n, u64 entries d of the document
index, then i32 lengths ``[n]``, i64 byte offsets ``[n]``, i64 document index ``[d]`` (first sequence of each document,
and n at the end). Source: ``megatron/core/datasets/indexed_dataset.py``, unchanged from core 0.8 to 0.16.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError, FormatError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class IndexedWriter:
    """Writes ``<prefix>.bin`` as sequences come and ``<prefix>.idx`` on ``close``; each sequence is one document."""

    def __init__(self, prefix: Path, dtype: np.dtype[Any] | type[np.generic] = np.int32) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._lengths: list[NDArray[np.int32]] = []
        self._bin: BinaryIO = bin_path(prefix).open("wb", buffering=1 << 20)

    def append(self, tokens: NDArray[np.integer], lengths: Sequence[int] | NDArray[np.integer]) -> None:
        """Add sequences that lie back to back in ``tokens`` (``[sum of lengths]``)."""
        assert len(tokens) == np.sum(lengths)
        self._bin.write(np.ascontiguousarray(tokens, self.dtype).data)
        self._lengths.append(np.asarray(lengths, np.int32))

    def close(self) -> None:
        """Finish both files and force them to the disk."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)
        _flush(self._bin)
        write_index(idx_path(self.prefix), lengths, self.dtype)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._bin.close()


def write_index(
    path: Path, lengths: NDArray[np.int32], dtype: np.dtype[Any], documents: NDArray[np.int64] | None = None
) -> None:
    """Write an ``.idx``. Without ``documents`` (its document index) every sequence is a document of its own."""
    count = len(lengths)
    num_documents = count + 1 if documents is None else len(documents)
    with path.open("wb") as file:
        file.write(_HEADER.pack(MAGIC, VERSION, CODES[dtype], count, num_documents))
        file.write(lengths.astype("<i4", copy=False).data)
        offset = 0  # a piece at a time: these arrays may be several times as large as all that is known of the rows
        for first in range(0, count, _INDEX_PIECE):
            sizes = lengths[first : first + _INDEX_PIECE].astype(np.int64) * dtype.itemsize
            ends = offset + np.cumsum(sizes)
            file.write((ends - sizes).astype("<i8", copy=False).data)
            offset = int(ends[-1])
        for first in range(0, num_documents, _INDEX_PIECE):
            last = min(first + _INDEX_PIECE, num_documents)
            piece = np.arange(first, last) if documents is None else documents[first:last]
            file.write(piece.astype("<i8", copy=False).data)
        _flush(file)


_INDEX_PIECE = 1 << 16


class IndexedDataset:
    """Memory-mapped reader; ``dataset[i]`` is sequence ``i`` without a copy. No document structure beyond sequences."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.dtype, self.lengths, self._offsets, self.document_indices = _read_index(idx_path(prefix))
        path = bin_path(prefix)
        _require(path)
        size = path.stat().st_size
        end = int((self._offsets + self.lengths.astype(np.int64) * self.dtype.itemsize).max(initial=0))
        if end > size or size % self.dtype.itemsize:
            raise FormatError(
                "SP105", f"{path} has {size:,} bytes, its .idx asks for {end:,}", help="it is damaged: make it again"
            )
        self.tokens: NDArray[Any] = np.memmap(path, self.dtype, mode="r") if size else np.zeros(0, self.dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[Any]:
        start = int(self._offsets[index]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.lengths[index])]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each sequence starts in ``tokens``, int64 ``[sequences]``."""
        return self._offsets // self.dtype.itemsize


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


def _read_index(path: Path) -> tuple[np.dtype[Any], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    _require(path)
    raw = path.read_bytes()
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise FormatError("SP105", f"{path} is not an IndexedDataset index", help="give the prefix of .bin/.idx files")
    _, version, code, count, documents = _HEADER.unpack_from(raw)
    expected = _HEADER.size + 12 * count + 8 * documents
    if version != VERSION or code not in DTYPES or len(raw) < expected:
        raise FormatError(
            "SP105",
            f"{path}: version {version}, type code {code}, {len(raw):,} bytes where {expected:,} are needed",
            help="it was cut off or made by something else: make it again",
        )
    lengths = np.frombuffer(raw, "<i4", count, _HEADER.size)
    offsets = np.frombuffer(raw, "<i8", count, _HEADER.size + 4 * count)
    return DTYPES[code], lengths, offsets, np.frombuffer(raw, "<i8", documents, _HEADER.size + 12 * count)


def _require(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            "SP101", f"there is no file {path}", help="check the prefix; it goes up to _packed_, without it"
        )


def sync(path: Path) -> None:
    """Force a finished file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(file: BinaryIO) -> None:
    with file:  # closed even if the disk is full, or Python would complain about it later
        file.flush()
        os.fsync(file.fileno())
