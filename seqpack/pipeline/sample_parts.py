"""Parts of samples: what a worker leaves for a shard, and all of them together as the source of a data set."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.ledger import DUPLICATE, Ledger
from seqpack.core.types import TokenizedBatch, running_sum, segment_sums
from seqpack.io.indexed import IndexedWriter, idx_path, write_index
from seqpack.io.packed import DataSetPaths, PieceIndexWriter
from seqpack.io.shards import Shard
from seqpack.options.data import LengthOptions
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.parts import Part, PartStore, PartWriter
from seqpack.pipeline.samples import KeptBatch, SampleSource
from seqpack.pipeline.table import SAMPLE, Table, TokenSource, column, map_table, pieces_of_table, table_parts

TOKENS, SAMPLES, IS_KEPT = "tokens", "samples", "is_kept"
TOKENS_PER_WRITE = 1 << 20


def make_sample_part(
    source: SampleSource, shard: Shard, length: LengthOptions, store: PartStore, advance: Callable[[int], None]
) -> int:
    """Tokenize a shard and write its part; returns the number of samples in it. The source's ledger counts it."""
    names = (TOKENS, SAMPLES, *((IS_KEPT,) if source.mindspeed else ()))
    with PartWriter(store.prefix(shard), shard, names) as writer, _no_collections():

        def lost(loss: Loss) -> None:
            writer.lost(loss.to_json())

        num_tokens = 0
        for batch in source.tokenize(length, lost=lost, shards=[shard]):
            writer.add(TOKENS, np.stack([batch.tokens.input_ids, batch.tokens.labels], axis=1))
            writer.add(SAMPLES, _rows(batch, num_tokens))
            num_tokens += len(batch.tokens.input_ids)
            advance(len(batch.tokens))
        if source.mindspeed:
            writer.add(IS_KEPT, np.array(source.is_kept, np.bool_))
        writer.finish(source.ledger, {"ended": source.num_ended})
    return source.ledger.kept.samples


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the collector of cycles from walking over thousands of samples, which have none, again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _rows(batch: KeptBatch, first_token: int) -> Table:
    tokens = batch.tokens
    rows = np.zeros(len(tokens), SAMPLE)
    rows["line"], rows["file"] = batch.line, batch.file
    rows["length"], rows["num_targets"] = tokens.lengths, batch.num_trained
    rows["start"] = tokens.offsets[:-1] + first_token
    rows["digest"] = digests_of(tokens)
    return rows


def digests_of(tokens: TokenizedBatch) -> NDArray[np.uint64]:
    """64 bits of the ids of each sample and which of them are trained on: a sum, each token times that of its place.

    The factors are random numbers, so that samples which differ are almost sure to differ here.
    """
    lengths, offsets = tokens.lengths, tokens.offsets
    values = 2 * tokens.input_ids.astype(np.uint64) + (tokens.labels >= 0) + np.uint64(1)
    places = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    values *= _factors(int(lengths.max(initial=0)))[places]
    return segment_sums(values, offsets)


def _factors(count: int) -> NDArray[np.uint64]:
    """The first random numbers of SplitMix64, odd ones: the same on every machine."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)


@dataclass(slots=True)
class SampleParts:
    """All parts of a set in the order of the data; ``ledger`` counts them together."""

    parts: list[Part]
    sources: tuple[str, ...]
    ledger: Ledger
    table: Table

    @classmethod
    def join(cls, parts: Sequence[Part], folder: Path, sources: tuple[str, ...]) -> SampleParts:
        """Write the parts' samples into one table in ``folder``."""
        ledger = Ledger()
        path = folder / "samples.table"
        number = 0
        with path.open("wb") as file:
            for chunk, part in enumerate(parts):
                ledger.add(part.ledger)
                for _, rows in table_parts(map_table(part.path(SAMPLES))):
                    numbered = rows.copy()
                    numbered["chunk"] = chunk
                    numbered["sample"] = np.arange(number, number + len(rows))
                    number += len(rows)
                    file.write(numbered.data)
        return cls(list(parts), sources, ledger, map_table(path))

    @property
    def num_ended(self) -> int:
        """Samples that ended with the end token already when ``--append-eod`` came to them."""
        return sum(part.counts["ended"] for part in self.parts)

    @property
    def is_kept(self) -> NDArray[np.bool_]:
        """Under ``--compat mindspeed``: for every sample that was read, whether it is in the set."""
        return np.concatenate([np.zeros(0, np.bool_), *(part.array(IS_KEPT, "?") for part in self.parts)])

    def tokens(self) -> TokenSource:
        return TokenSource(self.table, [(part.path(TOKENS),) for part in self.parts], self.sources)

    def write_rejects(self, path: Path) -> None:
        with path.open("wb") as file:
            for part in self.parts:
                file.write(part.rejects.read_bytes())

    def num_duplicates(self) -> int:
        """Samples with the same ids and labels as an earlier one."""
        digests = column(self.table, "digest")
        digests.sort()
        return int(np.count_nonzero(digests[1:] == digests[:-1]))

    def without_duplicates(self, folder: Path, rejects: Path) -> SampleParts:
        """The first of all equal samples only; the others are counted as dropped, and written to ``rejects``."""
        keep = np.ones(len(self.table), np.bool_)
        first: dict[bytes, int] = {}
        with self.tokens() as tokens, rejects.open("a", encoding="utf-8") as file:
            for index in self._repeated():
                row = self.table[index]
                input_ids, labels = _gather(self.table[index : index + 1], tokens)
                content = hashlib.sha256(input_ids.tobytes() + labels.tobytes()).digest()
                original = first.setdefault(content, index)
                if original != index:
                    keep[index] = False
                    self.ledger.unkeep(DUPLICATE, len(input_ids), int(row["num_targets"]))
                    loss = Loss(self._key(index), "dropped", f"duplicate of {self._key(original)}", len(input_ids))
                    file.write(loss.to_json() + "\n")
        path = folder / "samples.unique"
        with path.open("wb") as out:
            number = 0
            for begin, rows in table_parts(self.table):
                kept = rows[keep[begin : begin + len(rows)]].copy()
                kept["sample"] = np.arange(number, number + len(kept))
                number += len(kept)
                out.write(kept.data)
        return SampleParts(self.parts, self.sources, self.ledger, map_table(path))

    def _repeated(self) -> Iterator[int]:
        """Samples, in order, whose digest comes more than once."""
        digests = column(self.table, "digest")
        digests.sort()
        again = np.unique(digests[1:][digests[1:] == digests[:-1]])
        del digests
        for begin, rows in table_parts(self.table):
            if len(again):
                found = np.searchsorted(again, rows["digest"]).clip(max=len(again) - 1)
                yield from (begin + np.flatnonzero(again[found] == rows["digest"])).tolist()

    def _key(self, index: int) -> str:
        row = self.table[index]
        return f"{self.sources[row['file']]}:{row['line']}"

    def write_rows(self, paths: DataSetPaths, documents: NDArray[np.int64] | None = None) -> int:
        """A set of one sample per row; returns the number of rows. ``documents`` is another document index."""
        lengths = column(self.table, "length")
        with (
            self.tokens() as tokens,
            IndexedWriter(paths.column("input_ids")) as input_ids,
            IndexedWriter(paths.column("labels")) as labels,
            IndexedWriter(paths.column("attention_mask")) as attention_mask,
            PieceIndexWriter(paths.index, self.sources) as pieces,
        ):
            for first, rows in _bounded(self.table):
                ids, targets = _gather(rows, tokens)
                input_ids.append(ids, rows["length"])
                labels.append(targets, rows["length"])
                attention_mask.append(np.ones(len(ids), np.int32), rows["length"])
                pieces.add(pieces_of_table(rows, np.arange(first, first + len(rows)), self.sources))
        if documents is not None:
            for name in ("input_ids", "labels", "attention_mask"):
                write_index(idx_path(paths.column(name)), lengths, np.dtype("<i4"), documents)
        return len(lengths)


def _bounded(table: Table) -> Iterator[tuple[int, Table]]:
    """Rows of a bounded number of tokens."""
    for begin, rows in table_parts(table):
        ends = np.cumsum(rows["length"], dtype=np.int64)
        first = 0
        while first < len(rows):
            room = TOKENS_PER_WRITE + (ends[first - 1] if first else 0)
            last = max(first + 1, int(np.searchsorted(ends, room, side="right")))
            yield begin + first, rows[first:last]
            first = last


def _gather(rows: Table, tokens: TokenSource) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ids and labels of these samples back to back."""
    ends = running_sum(rows["length"])
    columns = (rows["chunk"], rows["start"], rows["length"], ends[:-1])
    return tokens.gather(zip(*(values.tolist() for values in columns), strict=True), int(ends[-1]))
