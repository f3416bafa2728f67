"""Pretraining text to documents on disk: a ``.bin``/``.idx`` pair for each column, every row a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, Say
from seqpack.core.types import TextSample
from seqpack.io.indexed import IndexedDataset, IndexedWriter, idx_path, write_index
from seqpack.io.manifest import FileRecord, Manifest, TextRecord, TokenizerRecord
from seqpack.io.packed import PretrainPaths, file_records
from seqpack.io.publish import partial_folder
from seqpack.io.readers import Record
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.pipeline.compat import document_rules
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.mindspeed import ROWS_PER_MARK, TOO_LONG, DocumentRules, document_index
from seqpack.pipeline.output import DataSetResult, check_output, line_writer, publish_set, tokenizer_record
from seqpack.pipeline.samples import Loss, check_loss, mend_row, reject_row, require_end_token
from seqpack.text.tokenizer import Tokenizer

DOCUMENTS_PER_BATCH = 256
"""Documents are long: fewer at a time than samples, so that memory stays small."""

SAMPLE_FLAGS = (
    "prompt_type",
    "prompt_type_path",
    "enable_thinking",
    "train_on",
    "train_on_prompt",
    "mask_history",
    "allow_special_tokens",
    "tokenizer_engine",
)

_Row = Sequence[list[int] | None]
"""Ids of each document of a row; None for one that is left out."""


def write_documents(
    input: ResolvedInput,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    compat: CompatOptions,
    *,
    resolved: str,
    progress: Progress,
    say: Say,
) -> DataSetResult:
    """Tokenize text and write the set ``--output-prefix``. Raises as ``preprocess`` does, and ConfigError for packing.

    Documents stay whole whatever their length, since Megatron's pretraining cuts their stream into sequences.
    """
    refuse_sample_flags(input, text)
    if pack.packs:
        raise ConfigError(
            "SP133",
            f"handler {input.handler!r} gives pretraining text, which cannot be packed yet",
            help="leave out --pack and --neat-pack; Megatron's pretraining fills its sequences by itself",
        )
    paths = PretrainPaths(write.output_prefix, input.text_keys)
    check_output(paths, write, packs=False)
    source = DocumentSource.open(input, text, length, compat)
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
            tokenizer=_tokenizer_record(source.tokenizer),
            recipe=input.recipe | {"append_eod": length.append_eod, "compat": compat.compat},
            inputs={str(file): FileRecord.of(file) for file in input.files},
            files=file_records(aside),
            seqpack_version=__version__,
            kind="pretrain",
            texts=texts,
        )
        publish_set(aside, paths, manifest)
    for note in _notes(manifest, length):
        say(note)
    return DataSetResult(paths, manifest, sources=tuple(input.files))


def refuse_sample_flags(input: ResolvedInput, text: TextOptions) -> None:
    """ConfigError SP028 for flags that only mean something for conversations."""
    if input.pregrouped:
        why = f"handler {input.handler!r} gives pretraining text"
        raise ConfigError("SP028", f"--pregrouped would do nothing: {why}", help="leave it out")
    refuse_idle(
        text,
        SAMPLE_FLAGS,
        because=f"handler {input.handler!r} gives pretraining text, which has no template and is trained on as a whole",
        help="leave it out, or choose the --handler of a conversation",
    )


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """Everything that is needed to tokenize text; ``end_token_id`` is None without ``--append-eod``.

    ``mindspeed`` are the rules of MindSpeed-LLM in place of our own.
    """

    input: ResolvedInput
    tokenizer: Tokenizer
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
        return cls(input, tokenizer, end, rules)

    def tokenize(self, *, lost: Callable[[Loss], None]) -> Iterator[Sequence[_Row]]:
        """Batches of rows, each the ids of its documents in the order of ``text_keys``.

        Raises DataError for a file that cannot be read, or that lacks the columns the handler needs.
        """
        rows = self.input.rows(self._texts)
        last_mended: Record | None = None
        while batch := list(islice(rows, ROWS_PER_MARK if self.mindspeed else DOCUMENTS_PER_BATCH)):
            found: list[tuple[Record, tuple[str, ...]]] = []
            for _, record, texts in batch:
                if record.num_mended and record is not last_mended:  # a record may give several rows
                    last_mended = record
                    mend_row(self.ledger, lost, record)
                if isinstance(texts, str):
                    reject_row(self.ledger, lost, record, texts)
                else:
                    found.append((record, texts))
            yield self._documents(found, lost)

    def _texts(self, samples: Sequence[TextSample]) -> list[tuple[str, ...]]:
        for sample in samples:
            # A handler that gave another number of texts would shift all columns behind it.
            if len(sample.texts) != len(self.input.text_keys):
                raise ValueError(f"{len(sample.texts)} texts for the keys {', '.join(self.input.text_keys)}")
        return [sample.texts for sample in samples]

    def _documents(
        self, rows: Sequence[tuple[Record, tuple[str, ...]]], lost: Callable[[Loss], None]
    ) -> Sequence[_Row]:
        """The rows' ids, without what the rules drop; the ledger counts them."""
        encoded = iter(self.tokenizer.encode_documents([text for _, texts in rows for text in texts if text]))
        finish = self._ended if self.mindspeed is None else self.mindspeed.finish
        documents = [[finish(next(encoded)) if text else [] for text in texts] for _, texts in rows]
        fitted: Sequence[_Row] = documents if self.mindspeed is None else self.mindspeed.fit(documents)
        for (record, _), whole, kept in zip(rows, documents, fitted, strict=True):
            num_tokens, num_kept = sum(map(len, whole)), sum(len(ids) for ids in kept if ids is not None)
            if num_kept or not num_tokens:
                self.ledger.keep(num_kept, num_kept, original=num_tokens)
            else:
                self.ledger.drop(TOO_LONG, num_tokens)
            if num_kept < num_tokens:
                lost(Loss(record.key, "truncated" if num_kept else "dropped", TOO_LONG, num_tokens - num_kept))
        return fitted

    def _ended(self, ids: list[int]) -> list[int]:
        if self.end_token_id is None or (ids and ids[-1] == self.end_token_id):
            return ids
        return [*ids, self.end_token_id]


def _spool(source: DocumentSource, paths: PretrainPaths, rejects: Path, progress: Progress) -> dict[str, TextRecord]:
    """Write the documents and what was lost; returns the counts of each key."""
    counts = {key: TextRecord(0, 0, 0) for key in paths.keys}
    is_kept: dict[str, list[bool]] = {key: [] for key in paths.keys}
    with ExitStack() as stack:
        writers = {key: stack.enter_context(IndexedWriter(paths.column(key))) for key in paths.keys}
        lost = stack.enter_context(rejects.open("w", encoding="utf-8"))
        advance = stack.enter_context(progress("tokenize", unit="documents"))
        for batch in source.tokenize(lost=line_writer(lost.write)):
            for place, (key, writer) in enumerate(writers.items()):
                column = [row[place] for row in batch]
                if source.mindspeed is not None:  # an empty text gives no document there
                    column = [ids for ids in column if ids is None or ids]
                    is_kept[key] += [ids is not None for ids in column]
                documents = [ids for ids in column if ids is not None]
                lengths = [len(ids) for ids in documents]
                writer.append(np.fromiter(chain.from_iterable(documents), np.int32, sum(lengths)), lengths)
                counts[key] = _add(counts[key], lengths)
            advance(len(batch))
    for key, marks in is_kept.items():
        if not all(marks):
            lengths_of = IndexedDataset(paths.column(key)).lengths
            write_index(idx_path(paths.column(key)), lengths_of, np.dtype("<i4"), document_index(np.array(marks)))
    return counts


def _add(record: TextRecord, lengths: list[int]) -> TextRecord:
    return TextRecord(record.documents + len(lengths), record.empty + lengths.count(0), record.tokens + sum(lengths))


def _tokenizer_record(tokenizer: Tokenizer) -> TokenizerRecord:
    return tokenizer_record(tokenizer, tokenizer.eos_token_id, tokenizer.pad_token_id)


def _notes(manifest: Manifest, length: LengthOptions) -> Iterator[str]:
    for key, record in manifest.texts.items():
        if record.empty:
            yield f"{record.empty:,} of {record.documents:,} rows have no {key!r}: an empty document keeps their place"
    if manifest.recipe["compat"] == "mindspeed":
        if len({record.documents for record in manifest.texts.values()}) > 1:
            yield "the columns have different numbers of documents, as in MindSpeed-LLM: rows do not match any more"
    elif length.seq_length is not None:
        yield f"--seq-length {length.seq_length:,} has no effect on pretraining text: documents stay whole"
