"""Pretraining text to documents on disk: a ``.bin``/``.idx`` pair for each column, every row a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, Say
from seqpack.core.types import TextSample
from seqpack.io.indexed import IndexedWriter
from seqpack.io.manifest import FileRecord, Manifest, TextRecord
from seqpack.io.packed import PretrainPaths, file_records
from seqpack.io.publish import partial_folder
from seqpack.options.data import LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.output import DataSetResult, check_output, line_writer, publish_set, tokenizer_record
from seqpack.pipeline.samples import Loss, check_loss, check_unicode, reject_row, require_end_token
from seqpack.text.tokenizer import Tokenizer

DOCUMENTS_PER_BATCH = 256
"""Documents are long: fewer at a time than samples, so that memory stays small."""


def write_documents(
    input: ResolvedInput,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    *,
    resolved: str,
    progress: Progress,
    say: Say,
) -> DataSetResult:
    """Tokenize text and write the set ``--output-prefix``. Raises as ``preprocess`` does, and ConfigError for packing.

    Documents stay whole whatever their length, since Megatron's pretraining cuts their stream into sequences.
    """
    if pack.packs:
        raise ConfigError(
            "SP115",
            f"handler {input.handler!r} gives pretraining text, which cannot be packed yet",
            help="leave out --pack and --neat-pack; Megatron's pretraining fills its sequences by itself",
        )
    paths = PretrainPaths(write.output_prefix, input.text_keys)
    check_output(paths, write)
    source = DocumentSource.open(input, text, length)
    with partial_folder(paths.prefix) as folder:
        aside = replace(paths, prefix=folder / paths.prefix.name)
        texts = _spool(source, aside, aside.rejects, progress)
        check_loss(source.ledger, input.files, length)
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = Manifest(
            packed=False,
            seq_length=None,
            strategy=None,
            mask=None,
            seed=pack.seed,
            num_rows=source.ledger.kept.samples,
            num_samples=source.ledger.kept.samples,
            ledger=source.ledger,
            tokenizer=tokenizer_record(source.tokenizer, source.tokenizer.eos_token_id),
            recipe=input.recipe | {"append_eod": length.append_eod},
            inputs={str(file): FileRecord.of(file) for file in input.files},
            files=file_records(aside),
            seqpack_version=__version__,
            kind="pretrain",
            texts=texts,
        )
        publish_set(aside, paths, manifest)
    for note in _notes(manifest, length):
        say(note)
    return DataSetResult(paths, manifest)


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """Everything that is needed to tokenize text; ``end_token_id`` is None without ``--append-eod``."""

    input: ResolvedInput
    tokenizer: Tokenizer
    end_token_id: int | None
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def open(cls, input: ResolvedInput, text: TextOptions, length: LengthOptions) -> DocumentSource:
        tokenizer = Tokenizer(text.tokenizer)
        end = require_end_token(tokenizer, tokenizer.eos_token_id) if length.append_eod else None
        return cls(input, tokenizer, end)

    def tokenize(self, *, lost: Callable[[Loss], None]) -> Iterator[list[list[list[int]]]]:
        """Batches of rows, each the ids of its documents in the order of ``text_keys``.

        Raises DataError for a file that cannot be read, or that lacks the columns the handler needs.
        """
        rows = self.input.rows(self._texts, reject=partial(reject_row, self.ledger, lost))
        while batch := [texts for _, _, texts in islice(rows, DOCUMENTS_PER_BATCH)]:
            written = iter(self.tokenizer.encode_documents([text for text in chain.from_iterable(batch) if text]))
            documents = [[self._ended(next(written)) if text else [] for text in texts] for texts in batch]
            for row in documents:
                num_tokens = sum(map(len, row))
                self.ledger.keep(num_tokens, num_tokens)
            yield documents

    def _texts(self, samples: Sequence[TextSample]) -> list[tuple[str, ...]]:
        for sample in samples:
            check_unicode(sample.texts)
            # A handler that gave another number of texts would shift all columns behind it.
            if len(sample.texts) != len(self.input.text_keys):
                raise ValueError(f"{len(sample.texts)} texts for the keys {', '.join(self.input.text_keys)}")
        return [sample.texts for sample in samples]

    def _ended(self, ids: list[int]) -> list[int]:
        if self.end_token_id is None or (ids and ids[-1] == self.end_token_id):
            return ids
        return [*ids, self.end_token_id]


def _spool(source: DocumentSource, paths: PretrainPaths, rejects: Path, progress: Progress) -> dict[str, TextRecord]:
    """Write the documents and what was lost; returns the counts of each key."""
    counts = {key: TextRecord(0, 0, 0) for key in paths.keys}
    with ExitStack() as stack:
        writers = {key: stack.enter_context(IndexedWriter(paths.column(key))) for key in paths.keys}
        lost = stack.enter_context(rejects.open("w", encoding="utf-8"))
        advance = stack.enter_context(progress("tokenize", unit="documents"))
        for batch in source.tokenize(lost=line_writer(lost.write)):
            for place, (key, writer) in enumerate(writers.items()):
                documents = [row[place] for row in batch]
                lengths = [len(ids) for ids in documents]
                writer.append(np.fromiter(chain.from_iterable(documents), np.int32, sum(lengths)), lengths)
                counts[key] = _add(counts[key], lengths)
            advance(len(batch))
    return counts


def _add(record: TextRecord, lengths: list[int]) -> TextRecord:
    return TextRecord(record.documents + len(lengths), record.empty + lengths.count(0), record.tokens + sum(lengths))


def _notes(manifest: Manifest, length: LengthOptions) -> Iterator[str]:
    for key, record in manifest.texts.items():
        if record.empty:
            yield f"{record.empty:,} of {record.documents:,} rows have no {key!r}: an empty document keeps their place"
    if length.seq_length is not None:
        yield f"--seq-length {length.seq_length:,} has no effect on pretraining text: documents stay whole"
