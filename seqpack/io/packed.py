"""A data set on disk: the three Megatron file pairs, the piece index that says what lies where, and the manifest.

See FORMAT.md. A *row* is one sequence of the ``.bin`` files: a pack, or one sample if the set is not packed. A *piece*
is the part of a row that one sample fills.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, FormatError
from seqpack.core.types import PackedSequence
from seqpack.io.indexed import IndexedDataset, bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest

COLUMNS = ("input_ids", "labels", "attention_mask")
"""One file pair each, as Megatron's and MindSpeed-LLM's loaders expect them."""


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
class PretrainPaths(DataSetPaths):
    """Names of all files of the pretraining set ``prefix``: a pair for each of ``keys``, no labels, no piece index."""

    keys: tuple[str, ...] = ()
    infix: ClassVar[str] = ""

    @property
    def files(self) -> list[Path]:
        bins = [bin_path(self.column(key)) for key in self.keys]
        idxs = [idx_path(self.column(key)) for key in self.keys]
        return [*bins, self.rejects, self.resolved, *idxs]


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

    def __len__(self) -> int:
        return len(self.row)

    def key(self, piece: int) -> str:
        """``file:line`` of the sample a piece comes from."""
        return f"{self.sources[self.source[piece]]}:{self.line[piece]}"

    def take(self, pieces: NDArray[np.int64], row: NDArray[np.int64]) -> PieceIndex:
        """These pieces, placed in other rows."""
        return PieceIndex(
            row,
            self.sample[pieces],
            self.length[pieces],
            self.num_targets[pieces],
            self.source[pieces],
            self.line[pieces],
            self.sources,
        )

    def write(self, path: Path) -> None:
        names = ("row", "sample", "length", "num_targets", "source", "line")
        table = pa.table({name: _arrow(getattr(self, name)) for name in names})
        table = table.replace_schema_metadata({"sources": json.dumps(self.sources)})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def read(cls, path: Path) -> PieceIndex:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
            sources = tuple(json.loads((table.schema.metadata or {})[b"sources"]))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise FormatError("SP105", f"{path} is not a piece index: {error}", help="make the set again") from error
        columns: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in table.column_names}
        return cls(sources=sources, **columns)


def _arrow(values: NDArray[np.integer]) -> pa.Array:
    # pa.array() would look whether this is a pandas series, for which it imports pandas: 0.3 s, if there is one
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


class PackedDataset:
    """Rows with their boundaries, read through memory maps; opening cost does not depend on the number of tokens."""

    def __init__(self, paths: DataSetPaths, manifest: Manifest) -> None:
        self.paths = paths
        self.manifest = manifest
        _check_sizes(paths, manifest)
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
        return cls(paths, Manifest.read(paths.manifest))

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, row: int) -> PackedSequence:
        row = range(len(self))[row]  # -1 is the last row; IndexError beyond the ends
        input_ids, labels = self._input_ids[row], self._labels[row]
        lengths = self.pieces.length[self.offsets[row] : self.offsets[row + 1]]
        ends = np.cumsum(lengths, dtype=np.int32)
        num_padding = len(input_ids) - int(ends[-1])
        tail = [len(input_ids)] if num_padding else []
        cu_seqlens = np.concatenate([[0], ends, tail]).astype(np.int32)
        return PackedSequence(input_ids, labels, cu_seqlens, num_padding)

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
        before = np.concatenate([[0], np.cumsum(self.pieces.length, dtype=np.int64)])[:-1]
        row_shift = self._input_ids.starts - before[self.offsets[:-1]]
        starts: NDArray[np.int64] = before + np.repeat(row_shift, self.num_samples)
        return starts

    def _per_row(self, per_piece: NDArray[np.integer]) -> NDArray[np.int64]:
        ends = np.concatenate([[0], np.cumsum(per_piece, dtype=np.int64)])
        summed: NDArray[np.int64] = ends[self.offsets[1:]] - ends[self.offsets[:-1]]
        return summed


def _check_sizes(paths: DataSetPaths, manifest: Manifest) -> None:
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
