"""A data set on disk: the three Megatron file pairs, the piece index that says what lies where, and the manifest.

See FORMAT.md. A *row* is one sequence of the ``.bin`` files: a pack, or one sample if the set is not packed. A *piece*
is the part of a row that one sample fills.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, FormatError
from seqpack.core.plan import round_up
from seqpack.core.types import PackedSequence, SetKind
from seqpack.io.indexed import IndexedDataset, bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest

COLUMNS = ("input_ids", "labels", "attention_mask")
"""One file pair each, as Megatron's and MindSpeed-LLM's loaders expect them."""

KINDS: dict[SetKind, str] = {
    "sft": "samples",
    "pretrain": "pretraining text",
    "pairwise": "preference pairs",
    "prompt": "prompts for reinforcement learning",
}
"""The kinds of sets, for messages."""


@dataclass(frozen=True, slots=True)
class DataSetPaths:
    """Names of all files of the set ``prefix``, e.g. ``out/alpaca``; ``out/alpaca_packed`` means the same set."""

    prefix: Path
    infix: ClassVar[str] = "_packed"

    def __post_init__(self) -> None:
        if self.prefix.name in ("", ".."):
            raise ConfigError(
                "SP001", f"{str(self.prefix)!r} is a folder, not a prefix", help="add a name, as in packs/mine"
            )

    @classmethod
    def of(cls, prefix: str | Path) -> DataSetPaths:
        path = Path(prefix)
        if path.name.endswith("_packed") and path.name != "_packed" and not cls(path).manifest.exists():
            path = path.with_name(path.name.removesuffix("_packed"))
        return cls(path)

    def column(self, name: str) -> Path:
        """Prefix of a ``.bin``/``.idx`` pair."""
        return self._named(f"_{name}_document")

    @property
    def index(self) -> Path:
        return self._named("_index.arrow")

    @property
    def manifest(self) -> Path:
        return self._named("_manifest.json")

    @property
    def rejects(self) -> Path:
        return self._named("_rejects.jsonl")

    @property
    def resolved(self) -> Path:
        return self._named("_resolved.yaml")

    @property
    def files(self) -> list[Path]:
        """Everything but the manifest, in the order of publication."""
        bins = [bin_path(self.column(name)) for name in COLUMNS]
        idxs = [idx_path(self.column(name)) for name in COLUMNS]
        return [*bins, self.index, self.rejects, self.resolved, *idxs]

    def _named(self, suffix: str) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}{self.infix}{suffix}")


@dataclass(frozen=True, slots=True)
class ColumnPaths(DataSetPaths):
    """Names of all files of a set that has a pair for each of ``keys``, and no piece index."""

    keys: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        bins = [bin_path(self.column(key)) for key in self.keys]
        idxs = [idx_path(self.column(key)) for key in self.keys]
        return [*bins, self.rejects, self.resolved, *idxs]


@dataclass(frozen=True, slots=True)
class PretrainPaths(ColumnPaths):
    """Names of all files of the pretraining set ``prefix``: a pair for each text."""

    infix: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class PieceIndex:
    """Which sample fills which part of which row, in the order of the rows; all arrays ``[pieces]``.

    ``sample`` numbers the samples of the original set, ``source`` is an index into ``sources`` (file names), ``line``
    the line or row in that file counted from 1, ``num_targets`` how many tokens of the piece the loss is computed on.
    """

    row: NDArray[np.int64]
    sample: NDArray[np.int64]
    length: NDArray[np.int32]
    num_targets: NDArray[np.int32]
    source: NDArray[np.int32]
    line: NDArray[np.int64]
    sources: tuple[str, ...]
    start: NDArray[np.int64] | None = None
    """The token of its sample that each piece starts at; None if all pieces are whole samples."""

    def __len__(self) -> int:
        return len(self.row)

    def key(self, piece: int) -> str:
        """``file:line`` of the sample a piece comes from."""
        return f"{self.sources[self.source[piece]]}:{self.line[piece]}"

    def take(self, pieces: NDArray[np.integer], row: NDArray[np.int64]) -> PieceIndex:
        """These pieces, placed in other rows."""
        return PieceIndex(
            row,
            self.sample[pieces],
            self.length[pieces],
            self.num_targets[pieces],
            self.source[pieces],
            self.line[pieces],
            self.sources,
            None if self.start is None else self.start[pieces],
        )

    def cut(
        self, start: NDArray[np.integer], length: NDArray[np.integer], num_targets: NDArray[np.int32]
    ) -> PieceIndex:
        """Parts of these pieces, one of each: where it starts, its tokens and its targets."""
        begin = start if self.start is None else self.start + start
        return replace(self, start=begin.astype(np.int64), length=length.astype(np.int32), num_targets=num_targets)

    @property
    def order(self) -> NDArray[np.int64]:
        """Numbers of the pieces in the order of the raw data."""
        if self.start is None:
            return np.argsort(self.sample, kind="stable")
        return np.lexsort((self.start, self.sample))

    def write(self, path: Path) -> None:
        with PieceIndexWriter(path, self.sources, with_start=self.start is not None) as writer:
            writer.add(self)

    @classmethod
    def read(cls, path: Path) -> PieceIndex:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
            sources = tuple(json.loads((table.schema.metadata or {})[b"sources"]))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise FormatError("SP105", f"{path} is not a piece index: {error}", help="make the set again") from error
        columns: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in table.column_names}
        return cls(sources=sources, **columns)


class PieceIndexWriter:
    """Writes a piece index batch by batch; what was added last lies in the last rows."""

    def __init__(self, path: Path, sources: tuple[str, ...], *, with_start: bool = False) -> None:
        """``with_start`` if some of the pieces are not whole samples."""
        self._columns = _PIECE_COLUMNS | ({"start": np.int64} if with_start else {})
        self._schema = pa.schema(
            [(name, pa.from_numpy_dtype(kind)) for name, kind in self._columns.items()],
            metadata={"sources": json.dumps(sources)},
        )
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

        self._waiting: dict[str, list[NDArray[Any]]] = {name: [] for name in self._columns}

    def add(self, pieces: PieceIndex) -> None:
        for name, kind in self._columns.items():
            self._waiting[name].append(getattr(pieces, name).astype(kind, copy=False))
        if sum(map(len, self._waiting["row"])) >= _PIECES_PER_BATCH:
            self._write(_PIECES_PER_BATCH)

    def _write(self, size: int) -> None:
        """Write what waits in batches of ``size``, so that nobody can tell how it came; the rest goes on waiting."""
        columns = {name: np.concatenate(parts) for name, parts in self._waiting.items() if parts}
        count = len(columns["row"]) if columns else 0
        done = count - count % size
        for first in range(0, done, size):
            arrays = [_arrow(columns[name][first : first + size]) for name in self._columns]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._waiting = {name: [columns[name][done:]] if count > done else [] for name in self._columns}

    def __enter__(self) -> PieceIndexWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, contextlib.suppress(OSError) if error else contextlib.nullcontext():
            if error is None:
                self._write(max(1, sum(map(len, self._waiting["row"]))))
            self._writer.close()


_PIECES_PER_BATCH = 1 << 16
_PIECE_COLUMNS: dict[str, type[np.integer]] = {
    "row": np.int64,
    "sample": np.int64,
    "length": np.int32,
    "num_targets": np.int32,
    "source": np.int32,
    "line": np.int64,
}


def _arrow(values: NDArray[np.integer]) -> pa.Array:
    # pa.array() would look whether this is a pandas series, for which it imports pandas: 0.3 s, if there is one
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


class PackedDataset:
    """Rows with their boundaries, read through memory maps; opening cost does not depend on the number of tokens."""

    def __init__(self, paths: DataSetPaths, manifest: Manifest) -> None:
        self.paths = paths
        self.manifest = manifest
        check_sizes(paths, manifest)
        self.pieces = PieceIndex.read(paths.index)
        self._input_ids = IndexedDataset(paths.column("input_ids"))
        self._labels = IndexedDataset(paths.column("labels"))
        self.offsets: NDArray[np.int64] = np.searchsorted(self.pieces.row, np.arange(len(self) + 1))
        """Row ``r`` holds the pieces ``offsets[r]:offsets[r + 1]``."""

    @classmethod
    def open(cls, prefix: str | Path) -> PackedDataset:
        """Open the set that ``--output-prefix prefix`` made.

        Raises DataError if a file is missing and FormatError if one is not what the manifest says.
        """
        paths = DataSetPaths.of(prefix)
        text = PretrainPaths(paths.prefix).manifest
        if text.is_file() and not paths.manifest.exists():
            raise FormatError(
                "SP132",
                f"{paths.prefix} holds pretraining text ({text}), not samples with labels",
                help="seqpack train and Megatron's pretraining read it; seqpack cannot pack or show it yet",
            )
        manifest = Manifest.read(paths.manifest)
        if manifest.kind != "sft":
            raise FormatError(
                "SP134",
                f"{paths.prefix} holds {KINDS[manifest.kind]} ({paths.manifest}), not samples to pack",
                help="seqpack makes such sets for other trainers; it cannot train on them, pack or show them",
            )
        return cls(paths, manifest)

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, row: int) -> PackedSequence:
        row = range(len(self))[row]  # -1 is the last row; IndexError beyond the ends
        input_ids, labels = self._columns(row)
        lengths = self.pieces.length[self.offsets[row] : self.offsets[row + 1]]
        ends = np.cumsum(self._places(lengths), dtype=np.int32)
        num_padding = len(input_ids) - int(ends[-1])
        tail = [len(input_ids)] if num_padding else []
        cu_seqlens = np.concatenate([[0], ends, tail]).astype(np.int32)
        real_lengths = lengths if self.manifest.align > 1 else None
        return PackedSequence(input_ids, labels, cu_seqlens, num_padding, real_lengths)

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        """Tokens in each row, padding included, int32 ``[rows]``."""
        return self._input_ids.lengths

    @property
    def num_tokens(self) -> NDArray[np.int64]:
        """Tokens in each row without padding, int64 ``[rows]``."""
        return self._per_row(self.pieces.length)

    @property
    def num_targets(self) -> NDArray[np.int64]:
        """Tokens of each row the loss is computed on, int64 ``[rows]``."""
        return self._per_row(self.pieces.num_targets)

    @property
    def sample_lengths(self) -> NDArray[np.int32]:
        """Tokens of each sample in the order of the raw data, int32 ``[samples]``: what plans of the set are of."""
        return self.pieces.length[self.pieces.order]

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples in each row, int64 ``[rows]``."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All ids, rows back to back."""
        return self._input_ids.tokens

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, aligned with ``tokens``."""
        return self._labels.tokens

    @property
    def piece_starts(self) -> NDArray[np.int64]:
        """Where each piece starts in ``tokens``, int64 ``[pieces]``."""
        before = np.concatenate([[0], np.cumsum(self._places(self.pieces.length), dtype=np.int64)])[:-1]
        row_shift = self._input_ids.starts - before[self.offsets[:-1]]
        starts: NDArray[np.int64] = before + np.repeat(row_shift, self.num_samples)
        return starts

    @property
    def layout(self) -> tuple[NDArray[np.integer], ...]:
        """What lies where, as far as the digests of the files do not say it."""
        return self.pieces.length, self.pieces.num_targets

    def _columns(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and labels of a row."""
        return self._input_ids[row], self._labels[row]

    def _places(self, lengths: NDArray[np.integer]) -> NDArray[np.int64]:
        """What pieces of these lengths take of their row, with the padding that aligns the next one."""
        return round_up(lengths, self.manifest.align if self.manifest.packed else 1)

    def _per_row(self, per_piece: NDArray[np.integer | np.bool_]) -> NDArray[np.int64]:
        ends = np.concatenate([[0], np.cumsum(per_piece, dtype=np.int64)])
        summed: NDArray[np.int64] = ends[self.offsets[1:]] - ends[self.offsets[:-1]]
        return summed


def check_sizes(paths: DataSetPaths, manifest: Manifest) -> None:
    """FormatError unless all files of the set are there and as large as its manifest says."""
    for path in paths.files:
        record = manifest.files.get(_suffix(paths, path))
        size = path.stat().st_size if path.is_file() else None
        if record is None or size != record.size:
            seen = "is missing" if size is None else f"has {size:,} bytes"
            wanted = f"{record.size:,} bytes" if record else "no such file"
            raise FormatError(
                "SP105", f"{path} {seen}, the manifest says {wanted}", help="the set is damaged: make it again"
            )


def _suffix(paths: DataSetPaths, path: Path) -> str:
    """A file's name without the prefix, so that a set may be renamed as a whole."""
    return path.name.removeprefix(paths.prefix.name)


def file_records(paths: DataSetPaths) -> dict[str, FileRecord]:
    """Sizes and digests of the finished files, for the manifest."""
    return {_suffix(paths, path): FileRecord.of(path) for path in paths.files}
