"""Tokenized samples on their way to the data set: raw files beside the output, and a few numbers per sample."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from seqpack.core.progress import Progress
from seqpack.core.types import running_sum
from seqpack.io.indexed import IndexedWriter, bin_path, idx_path, sync, write_index
from seqpack.io.packed import DataSetPaths, PieceIndex
from seqpack.io.shards import Shard
from seqpack.options.data import LengthOptions
from seqpack.pipeline.distribute import distribute
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.materialize import TokenSource
from seqpack.pipeline.samples import KeptBatch, SampleSource

TOKENS_PER_WRITE = 1 << 20
COPY_BYTES = 1 << 20
_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class SpoolPaths:
    """Files of one spool: int32 ids and labels of all samples back to back; a line per row that is not kept whole."""

    prefix: Path

    @property
    def input_ids(self) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.input_ids.bin")

    @property
    def labels(self) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.labels.bin")

    @property
    def rejects(self) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.rejects.jsonl")

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return self.input_ids, self.labels, self.rejects


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """What is known of each sample, all ``[samples]``: tokens, targets, number of its file, line in it."""

    length: NDArray[np.int32]
    num_targets: NDArray[np.int32]
    file: NDArray[np.int32]
    line: NDArray[np.int64]

    @classmethod
    def of(cls, batch: KeptBatch) -> SampleColumns:
        tokens = batch.tokens
        return cls(
            tokens.lengths.astype(np.int32),
            batch.num_trained.astype(np.int32),
            batch.file.astype(np.int32),
            batch.line,
        )

    @classmethod
    def concatenate(cls, parts: list[SampleColumns]) -> SampleColumns:
        parts = parts or [cls(_NONE, _NONE, _NONE, _NONE.astype(np.int64))]
        return cls(
            np.concatenate([part.length for part in parts]),
            np.concatenate([part.num_targets for part in parts]),
            np.concatenate([part.file for part in parts]),
            np.concatenate([part.line for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Spooled:
    """A finished spool."""

    paths: SpoolPaths
    columns: SampleColumns

    def pieces(self, source: SampleSource) -> PieceIndex:
        """The index of a set of one sample per row."""
        columns = self.columns
        number = np.arange(len(columns.length), dtype=np.int64)
        sources = tuple(map(str, source.files))
        return PieceIndex(number, number, columns.length, columns.num_targets, columns.file, columns.line, sources)

    def tokens(self, source: SampleSource) -> TokenSource:
        """The samples, to pack from."""
        starts = running_sum(self.columns.length)[:-1]
        return TokenSource(_map(self.paths.input_ids), _map(self.paths.labels), starts, self.pieces(source))

    def write_rows(self, source: SampleSource, paths: DataSetPaths) -> int:
        """Make it a set of one sample per row, without copying ids and labels; returns the number of rows."""
        lengths = self.columns.length
        for name, file in (("input_ids", self.paths.input_ids), ("labels", self.paths.labels)):
            sync(file)
            file.replace(bin_path(paths.column(name)))
            write_index(idx_path(paths.column(name)), lengths, np.dtype("<i4"))
        ends = running_sum(lengths)
        first = 0
        with IndexedWriter(paths.column("attention_mask")) as attention_mask:
            while first < len(lengths):
                last = max(first + 1, int(np.searchsorted(ends, ends[first] + TOKENS_PER_WRITE, side="right")) - 1)
                attention_mask.append(np.ones(ends[last] - ends[first], np.int32), lengths[first:last])
                first = last
        self.pieces(source).write(paths.index)
        return len(lengths)


class SpoolWriter:
    """Writes a spool batch by batch."""

    def __init__(self, paths: SpoolPaths, *, more: Spooled | None = None) -> None:
        """An empty one, or ``more`` to be written behind a finished one."""
        self._paths = paths
        self._columns: list[SampleColumns] = [more.columns] if more else []
        mode = "ab" if more else "wb"
        self._input_ids, self._labels, self._rejects = (file.open(mode) for file in paths.files)

    def add(self, batch: KeptBatch) -> None:
        for file, tokens in ((self._input_ids, batch.tokens.input_ids), (self._labels, batch.tokens.labels)):
            file.write(np.ascontiguousarray(tokens, "<i4").data)
        self._columns.append(SampleColumns.of(batch))

    def lost(self, loss: Loss) -> None:
        self._rejects.write(loss.to_json().encode() + b"\n")

    def append(self, spooled: Spooled) -> None:
        """Put a finished spool behind what is there; its files are removed."""
        for path, file in zip(spooled.paths.files, (self._input_ids, self._labels, self._rejects), strict=True):
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, COPY_BYTES)
            path.unlink()
        self._columns.append(spooled.columns)

    def finish(self) -> Spooled:
        return Spooled(self._paths, SampleColumns.concatenate(self._columns))

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._input_ids, self._labels, self._rejects):
            file.close()


def spool(
    source: SampleSource, length: LengthOptions, prefix: Path, *, workers: int | None, progress: Progress
) -> Spooled:
    """Tokenize all data into one spool, in the order of the data; the source's ledger counts them.

    Each worker writes spools of its own, one per shard, which are put behind one another: tokens never pass through a
    pipe.
    """

    def part(source: SampleSource, number: int, shards: Iterable[Shard], advance: Callable[[int], None]) -> Spooled:
        with SpoolWriter(SpoolPaths(prefix.with_name(f"{prefix.name}-{number}"))) as writer:
            for batch in source.tokenize(length, lost=writer.lost, shards=shards):
                writer.add(batch)
                advance(len(batch.tokens))
        return writer.finish()

    with contextlib.closing(distribute(source, part, workers=workers, progress=progress)) as parts:
        first = next(parts)
        with SpoolWriter(first.paths, more=first) as writer:
            for another in parts:
                writer.append(another)
        return writer.finish()


def _map(path: Path) -> NDArray[np.int32]:
    return np.memmap(path, "<i4", mode="r") if path.stat().st_size else _NONE
