"""Pretraining text to documents: what a worker leaves for a shard, and all parts together as the files of a set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.ledger import DUPLICATE, Ledger
from seqpack.core.types import TextSample, running_sum
from seqpack.io.indexed import IndexedWriter, idx_path, write_index
from seqpack.io.manifest import TextRecord
from seqpack.io.packed import PretrainPaths
from seqpack.io.readers import Record
from seqpack.io.shards import Shard
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.compat import document_rules
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.loss import Loss, Outcome
from seqpack.pipeline.mindspeed import TOO_LONG, DocumentRules, document_index
from seqpack.pipeline.oversize import check_document
from seqpack.pipeline.parts import Part, PartStore, PartWriter
from seqpack.pipeline.samples import count_row, require_end_token
from seqpack.text.documents import DocumentEncoder
from seqpack.text.engines import PIECES_COMPARED, Choice, EngineName, choose_engine
from seqpack.text.tokenizer import Tokenizer

DOCUMENTS_PER_BATCH = 1024
CHARACTERS_PER_BATCH = 1 << 20
"""Encoding takes some 150 bytes of memory for each of them."""

ROWS = "rows"
ROW = np.dtype([("line", "<i8"), ("digest", "<u8"), ("place", "<i8"), ("file", "<i4")])
"""Of each record: its line, 64 bits of a digest of all its ids, its number among all rows, that of its file."""


@dataclass(slots=True)
class DocumentSource:
    """Everything that is needed to tokenize text, resolved and checked before the first row is read."""

    input: ResolvedInput
    tokenizer: Tokenizer
    encoder: DocumentEncoder
    end_token_id: int | None
    mindspeed: DocumentRules | None = None
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def open(
        cls, input: ResolvedInput, text: TextOptions, length: LengthOptions, compat: CompatOptions
    ) -> DocumentSource:
        tokenizer = Tokenizer(text.tokenizer)
        end = require_end_token(tokenizer, tokenizer.eos_token_id) if length.append_eod else None
        rules = document_rules(input, tokenizer, length, compat) if compat.compat == "mindspeed" else None
        return cls(input, tokenizer, DocumentEncoder(tokenizer, tokenizer), end, rules)

    def choose_engine(self, wanted: EngineName) -> Choice:
        """Decide who encodes. DeviceError if an engine asked for by name is not installed."""

        def pieces() -> list[str]:
            texts = (text for _, _, row in self.input.rows(self._texts) if not isinstance(row, str) for text in row)
            return list(islice(texts, PIECES_COMPARED))

        choice = choose_engine(self.tokenizer, wanted, pieces=pieces)
        self.encoder = DocumentEncoder(choice.engine, self.tokenizer)
        return choice

    def make_part(self, shard: Shard, store: PartStore, advance: Callable[[int], None]) -> int:
        """Tokenize a shard and write its part; returns the number of records in it."""
        source = replace(self, ledger=Ledger())
        keys = range(len(self.input.text_keys))
        count = num_rows = 0
        with PartWriter(store.prefix(shard), shard, [ROWS, *map(_ids, keys), *map(_lengths, keys)]) as writer:
            for batch in _batches(self.input.rows(self._texts, [shard])):
                found = source._usable(batch, lambda loss: writer.lost(loss.to_json()))
                columns = [source._encode([texts[key] for _, _, texts in found]) for key in keys]
                for key, (ids, lengths) in zip(keys, columns, strict=True):
                    writer.add(_ids(key), ids)
                    writer.add(_lengths(key), lengths)
                writer.add(ROWS, _rows(batch, num_rows, columns))
                num_rows += len(batch)
                count += len(found)
                advance(len(found))
            writer.finish(source.ledger, {"rows": num_rows})
        return count

    def measure(self, advance: Callable[[int], None]) -> Iterator[NDArray[np.int32]]:
        """Lengths of the documents of all rows, empty ones left out, batch by batch; the ledger counts the rows."""
        keys = range(len(self.input.text_keys))
        for batch in _batches(self.input.rows(self._texts)):
            found = self._usable(batch, lambda loss: None)
            lengths = np.concatenate([self._encode([texts[key] for _, _, texts in found])[1] for key in keys])
            num_tokens = int(lengths.sum())
            self.ledger.keep_whole(len(found), num_tokens, num_tokens)
            advance(len(found))
            yield lengths[lengths > 0]

    def _usable(
        self, batch: Sequence[tuple[int, Record, Any]], lost: Callable[[Loss], None]
    ) -> list[tuple[int, Record, tuple[str, ...]]]:
        """The rows with texts; the others are counted."""
        return [row for row in batch if count_row(self.ledger, lost, row[1], row[2])]

    def _texts(self, samples: Sequence[TextSample]) -> list[tuple[str, ...]]:
        for sample in samples:
            # A handler that gave another number of texts would shift all columns behind it.
            if len(sample.texts) != len(self.input.text_keys):
                raise ValueError(f"{len(sample.texts)} texts for the keys {', '.join(self.input.text_keys)}")
            for text in sample.texts:
                check_document(text)
        return [sample.texts for sample in samples]

    def _encode(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids of the documents back to back, and their lengths; an empty text stays empty."""
        is_there = np.array([bool(text) for text in texts], np.bool_)
        end = self.end_token_id if self.mindspeed is None else None
        ids, offsets = self.encoder.encode([text for text in texts if text], end_token_id=end)
        if self.mindspeed is not None:
            ids, offsets = self.mindspeed.finish(ids, offsets)
        lengths = np.zeros(len(texts), np.int32)
        lengths[is_there] = np.diff(offsets)
        return ids, lengths


def _batches(rows: Iterator[tuple[int, Record, Any]]) -> Iterator[list[tuple[int, Record, Any]]]:
    batch: list[tuple[int, Record, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(map(len, row[2]))
        if len(batch) >= DOCUMENTS_PER_BATCH or size >= CHARACTERS_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(
    batch: Sequence[tuple[int, Record, Any]],
    first_place: int,
    columns: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]],
) -> NDArray[np.void]:
    places = [place for place, (_, _, texts) in enumerate(batch, first_place) if not isinstance(texts, str)]
    found = [batch[place - first_place] for place in places]
    rows = np.zeros(len(found), ROW)
    rows["place"] = places
    rows["file"], rows["line"] = [number for number, _, _ in found], [record.line for _, record, _ in found]
    digests = [hashlib.sha1(usedforsecurity=False) for _ in found]
    for ids, lengths in columns:
        view, offsets = ids.data.cast("B"), running_sum(4 * lengths.astype(np.int64)).tolist()
        for number, digest in enumerate(digests):
            digest.update(view[offsets[number] : offsets[number + 1]])
            digest.update(b"|")
    rows["digest"] = np.frombuffer(b"".join(digest.digest()[:8] for digest in digests), "<u8")
    return rows


def _ids(key: int) -> str:
    return f"ids-{key}"


def _lengths(key: int) -> str:
    return f"lengths-{key}"


@dataclass(slots=True)
class DocumentParts:
    """All parts of a set in the order of the data; ``lengths`` of the documents, int32 ``[records, columns]``.

    ``num_rows`` counts all rows of the data, also those that gave no record.
    """

    parts: Sequence[Part]
    sources: tuple[str, ...]
    ledger: Ledger
    rows: NDArray[np.void]
    num_rows: int
    lengths: NDArray[np.int32]

    @classmethod
    def join(cls, parts: Sequence[Part], sources: tuple[str, ...], num_keys: int) -> DocumentParts:
        ledger = Ledger()
        tables, num_rows = [np.zeros(0, ROW)], 0
        for part in parts:
            ledger.add(part.ledger)
            tables.append(np.array(part.array(ROWS, ROW)))
            tables[-1]["place"] += num_rows
            num_rows += part.counts["rows"]
        rows = np.concatenate(tables)
        columns = [
            np.concatenate([np.zeros(0, np.int32), *(part.array(_lengths(key), "<i4") for part in parts)])
            for key in range(num_keys)
        ]
        return cls(parts, sources, ledger, rows, num_rows, np.stack(columns, axis=1))

    def num_duplicates(self) -> int:
        """Records whose documents are those of an earlier one."""
        return len(self.rows) - len(np.unique(self.rows["digest"]))

    def choose(self, rules: DocumentRules | None, *, dedup: bool, rejects: Path) -> NDArray[np.bool_]:
        """Which documents are written, as ``lengths``; the ledger counts them all, losses are written down."""
        is_kept = np.ones(self.lengths.shape, np.bool_)
        if rules is not None:
            is_kept = rules.is_kept(self.lengths, self.rows["place"], self.num_rows)
        is_duplicate = np.zeros(len(self.rows), np.bool_)
        with rejects.open("wb") as file:

            def lost(index: int, outcome: Outcome, reason: str, tokens: int) -> None:
                file.write(Loss(self._key(index), outcome, reason, tokens).to_json().encode() + b"\n")

            for part in self.parts:
                file.write(part.rejects.read_bytes())
            whole = self.lengths.sum(axis=1, dtype=np.int64)
            for index, original in self._repeated() if dedup else ():
                is_kept[index], is_duplicate[index] = False, True
                self.ledger.drop(DUPLICATE, int(whole[index]))
                lost(index, "dropped", f"duplicate of {self._key(original)}", int(whole[index]))
            kept = np.where(is_kept, self.lengths, 0).sum(axis=1, dtype=np.int64)
            is_whole = (kept == whole) & ~is_duplicate
            num_tokens = int(whole[is_whole].sum())
            self.ledger.keep_whole(int(is_whole.sum()), num_tokens, num_tokens)
            for index in np.flatnonzero((kept < whole) & ~is_duplicate).tolist():
                if kept[index]:
                    self.ledger.keep(int(kept[index]), int(kept[index]), original=int(whole[index]))
                else:
                    self.ledger.drop(TOO_LONG, int(whole[index]))
                lost(index, "truncated" if kept[index] else "dropped", TOO_LONG, int(whole[index] - kept[index]))
        return is_kept

    def write(self, paths: PretrainPaths, is_kept: NDArray[np.bool_], *, index_drops: bool) -> dict[str, TextRecord]:
        """The file pairs; with ``index_drops`` documents that are left out still end an entry of the document index."""
        return {
            key: self._write_column(number, key, paths, is_kept[:, number], index_drops=index_drops)
            for number, key in enumerate(paths.keys)
        }

    def _write_column(
        self, number: int, key: str, paths: PretrainPaths, is_kept: NDArray[np.bool_], *, index_drops: bool
    ) -> TextRecord:
        first = 0
        with IndexedWriter(paths.column(key)) as writer:
            for part in self.parts:
                ids, lengths = part.array(_ids(number), "<i4"), part.array(_lengths(number), "<i4")
                kept = is_kept[first : first + len(lengths)]
                first += len(lengths)
                starts = running_sum(lengths)
                # runs of documents that follow one another are copied at once
                edges = np.flatnonzero(np.diff(np.concatenate([[0], kept.astype(np.int8), [0]])))
                for begin, end in edges.reshape(-1, 2).tolist():
                    writer.append(ids[starts[begin] : starts[end]], lengths[begin:end])
        written = self.lengths[is_kept, number]
        if index_drops:
            marks = is_kept[self.lengths[:, number] > 0]  # an empty text gives no document there
            if not marks.all():
                write_index(idx_path(paths.column(key)), written, np.dtype("<i4"), document_index(marks))
        return TextRecord(len(written), int(np.count_nonzero(written == 0)), int(written.sum(dtype=np.int64)))

    def _repeated(self) -> Iterator[tuple[int, int]]:
        """Records that are equal to an earlier one, and that one."""
        first: dict[int, int] = {}
        for index, digest in enumerate(self.rows["digest"].tolist()):
            original = first.setdefault(digest, index)
            if original != index:
                yield index, original

    def _key(self, index: int) -> str:
        row = self.rows[index]
        return f"{self.sources[row['file']]}:{row['line']}"
