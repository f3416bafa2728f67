"""Preference pairs and prompts to file pairs, one for each column: what a row gives stays a sequence of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.progress import Progress
from seqpack.core.types import Message, Preference, Question, Sample, Span, TokenizedBatch
from seqpack.io.indexed import IndexedWriter, idx_path, write_index
from seqpack.io.manifest import FileRecord, TextRecord
from seqpack.io.packed import KINDS, ColumnPaths
from seqpack.io.publish import partial_folder
from seqpack.io.readers import Record
from seqpack.options.check import refuse_idle
from seqpack.options.data import LengthOptions
from seqpack.pipeline.existing import unchanged_set
from seqpack.pipeline.kinds import check_kind
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.mindspeed import CUT, TOO_LONG, document_index
from seqpack.pipeline.output import DataSetResult, line_writer, publish_columns, tokenizer_record
from seqpack.pipeline.run import Run
from seqpack.pipeline.samples import SampleSource, check_loss, count_row
from seqpack.text.encoder import SampleEncoder
from seqpack.text.engines import PIECES_COMPARED, Choice, EngineName, choose_engine
from seqpack.text.labels import REPLIES
from seqpack.text.template import TextTemplate

ROWS_PER_BATCH = 256
LONGER = "longer than --seq-length"

Rendered = tuple[list[Span], ...]
"""What is to be encoded for one item: the spans of some samples and texts."""

Column = NDArray[np.int32] | list[int]


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A value for each column; ``num_tokens`` of them are tokens, cut from ``original``, ``num_trained`` targets."""

    values: tuple[Column, ...]
    num_tokens: int
    num_trained: int
    original: int

    @property
    def longest(self) -> int:
        return max(len(value) for value in self.values)


class ColumnMaker(Protocol):
    """How the items of a handler become columns. ``keeps_places``: a row that is left out still ends a document."""

    @property
    def keeps_places(self) -> bool: ...

    def render(self, item: Any) -> Rendered:
        """RejectError if the template cannot use the item."""
        ...

    def encode(self, batch: Sequence[Rendered]) -> list[ColumnRow]: ...


@dataclass(frozen=True, slots=True)
class PairMaker:
    """``chosen_input_ids``, ``chosen_labels`` and the same of the rejected answer; only the answers are trained on."""

    source: SampleSource
    keeps_places: bool = False

    def render(self, item: Preference) -> Rendered:
        return tuple(self._spans(sample) for sample in (item.chosen, item.rejected))

    def encode(self, batch: Sequence[Rendered]) -> list[ColumnRow]:
        tokens = _encode(self.source, batch)
        trained = tokens.num_trained
        rows = []
        for place in range(0, len(tokens), 2):
            chosen, rejected = tokens[place], tokens[place + 1]
            values = (chosen.input_ids, chosen.labels, rejected.input_ids, rejected.labels)
            num_tokens = len(chosen) + len(rejected)
            rows.append(ColumnRow(values, num_tokens, int(trained[place : place + 2].sum()), num_tokens))
        return rows

    def _spans(self, sample: Sample) -> list[Span]:
        *before, answer = sample.messages
        messages = [message._replace(train=False) if message.role in REPLIES else message for message in before]
        return self.source.renderer.spans(sample._replace(messages=(*messages, answer._replace(train=True))))


@dataclass(frozen=True, slots=True)
class PromptMaker:
    """``input_ids`` up to where the reply begins, ``attention_mask`` of ones, and the ids of further texts."""

    source: SampleSource
    keeps_places: bool = False

    def render(self, item: Question) -> Rendered:
        texts = [guarded_text(self.source, text) for text in item.texts]
        return (self._prompt(item.sample), *texts)

    def encode(self, batch: Sequence[Rendered]) -> list[ColumnRow]:
        tokens = iter(_encode(self.source, batch))
        rows = []
        for rendered in batch:
            prompt, *texts = (sample.input_ids for sample in islice(tokens, len(rendered)))
            values = (prompt, np.ones(len(prompt), np.int32), *texts)
            num_tokens = len(prompt) + sum(map(len, texts))
            rows.append(ColumnRow(values, num_tokens, 0, num_tokens))
        return rows

    def _prompt(self, sample: Sample) -> list[Span]:
        """All that stands before a reply. It is rendered with one, from which the template takes what precedes it."""
        template = self.source.template
        reply = "x"
        thoughts = template.thoughts if isinstance(template, TextTemplate) else None
        if isinstance(template, TextTemplate) and thoughts is not None and template.thinking is not False:
            reply = f"{thoughts.opening}x{thoughts.closing}x"  # the model is to think for itself
        messages = [message._replace(train=False) for message in sample.messages]
        whole = sample._replace(messages=(*messages, Message("assistant", reply, train=True)))
        spans = self.source.renderer.spans(whole)
        return [span for span in spans if not span.train]


def guarded_text(source: SampleSource, text: str) -> list[Span]:
    """A text of a column, in which what looks like a control token stays text."""
    return source.renderer.guarded([Span(text, False, content=(0, len(text)))])


def _encode(source: SampleSource, batch: Sequence[Rendered]) -> TokenizedBatch:
    return source.encoder.encode([spans for rendered in batch for spans in rendered])


def write_columns(
    source: SampleSource,
    maker: ColumnMaker,
    run: Run,
) -> DataSetResult:
    """Write the set of kind ``pairwise`` or ``prompt``. Raises as ``preprocess`` does, and ConfigError for packing.

    Nothing is cut: a pair with half of an answer, or half a prompt, is another one. What is too long is left out.
    """
    found, length, is_compat = source.input, run.length, run.compat.compat != "none"
    check_kind(found.kind, found.handler, run.text, run.pack)
    if run.work.is_share or run.work.ray:
        raise ConfigError(
            "SP030",
            f"{KINDS[found.kind]} cannot be made in shares",
            help="leave out --ray and --shard-index, or give --num-shards 1 under srun and torchrun",
        )
    if not is_compat:
        refuse_idle(
            length,
            ("append_eod", "dedup", "split_sft"),
            because=f"handler {found.handler!r} gives sequences that end as the template says",
            help="leave it out",
        )
    paths = ColumnPaths(run.write.output_prefix, tuple(found.handlers[0].column_names))  # type: ignore[attr-defined]  # kind_of has looked
    tokenizer = tokenizer_record(source.tokenizer, source.eos_token_id, source.pad_token_id)
    recipe = source.recipe | run.recipe()
    if same := unchanged_set(paths, run, recipe, tokenizer, found.files):
        return DataSetResult(paths, same, sources=tuple(found.files), is_unchanged=True)
    engine = _choose_engine(source, maker, run.text.tokenizer_engine)
    source.encoder = SampleEncoder(engine.engine, source.control)
    with partial_folder(paths.prefix) as folder:
        aside = replace(paths, prefix=folder / paths.prefix.name)
        with aside.rejects.open("w", encoding="utf-8") as lost:
            rows = _kept(source, maker, length, line_writer(lost.write))
            texts = _write(rows, aside, run.progress, keeps_places=maker.keeps_places)
        check_loss(source.ledger, found.files, length)
        manifest = publish_columns(
            aside,
            paths,
            run,
            kind=found.kind,
            ledger=source.ledger,
            tokenizer=tokenizer,
            recipe=recipe | {"tokenizer_engine": engine.label},
            inputs={str(file): FileRecord.of_input(file) for file in found.files},
            texts=texts,
        )
    if is_compat and length.append_eod:
        run.say(f"--append-eod has no effect on {KINDS[found.kind]}, as in MindSpeed-LLM")
    if LONGER in source.ledger.dropped:
        run.say("what is longer than --seq-length was left out as a whole: half an answer, or prompt, is another one")
    return DataSetResult(paths, manifest, engine, tuple(found.files), note=source.note)


def _choose_engine(source: SampleSource, maker: ColumnMaker, wanted: EngineName) -> Choice:
    def pieces() -> list[str]:
        rendered = (item for _, _, item in source.input.rows(lambda items: [maker.render(item) for item in items]))
        spans = (span.text for item in rendered if not isinstance(item, str) for part in item for span in part)
        return list(islice(spans, PIECES_COMPARED))

    return choose_engine(source.tokenizer, wanted, pieces=pieces)


def _kept(
    source: SampleSource, maker: ColumnMaker, length: LengthOptions, lost: Callable[[Loss], None]
) -> Iterator[ColumnRow | None]:
    """The rows of the set in the order of the data, None for one that is too long; the ledger counts all."""
    rows = source.input.rows(lambda items: [maker.render(item) for item in items])
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        records = [record for _, record, item in batch if count_row(source.ledger, lost, record, item)]
        encoded = maker.encode([item for _, _, item in batch if not isinstance(item, str)])
        for record, row in zip(records, encoded, strict=True):
            yield _fit(source, maker, record, row, length, lost)


def _fit(
    source: SampleSource,
    maker: ColumnMaker,
    record: Record,
    row: ColumnRow,
    length: LengthOptions,
    lost: Callable[[Loss], None],
) -> ColumnRow | None:
    limit = length.seq_length
    # theirs drops what reaches the length, ours what exceeds it
    if limit is None or row.longest < limit + (not maker.keeps_places):
        source.ledger.keep(row.num_tokens, row.num_trained, original=row.original)
        if row.original > row.num_tokens:
            lost(Loss(record.key, "truncated", CUT, row.original - row.num_tokens))
        return row
    if length.on_overlong == "error":
        raise DataError(
            "SP108",
            f"{record.key}: {row.longest:,} tokens do not fit --seq-length {limit:,}",
            help="raise it, or choose --on-overlong drop",
        )
    reason = TOO_LONG if maker.keeps_places else LONGER
    source.ledger.drop(reason, row.original)
    lost(Loss(record.key, "dropped", reason, row.original))
    return None


def _write(
    rows: Iterator[ColumnRow | None], paths: ColumnPaths, progress: Progress, *, keeps_places: bool
) -> dict[str, TextRecord]:
    """Write the columns; returns the counts of each."""
    is_kept: list[bool] = []
    lengths: list[list[int]] = [[] for _ in paths.keys]
    with ExitStack() as stack:
        writers = [stack.enter_context(IndexedWriter(paths.column(key))) for key in paths.keys]
        advance = stack.enter_context(progress("tokenize", unit="rows"))
        for row in rows:
            is_kept.append(row is not None)
            if row is None:
                continue
            for writer, value, sizes in zip(writers, row.values, lengths, strict=True):
                writer.append(np.asarray(value, np.int32), [len(value)])
                sizes.append(len(value))
            advance(1)
    if keeps_places and not all(is_kept):
        documents = document_index(np.array(is_kept))
        for key, sizes in zip(paths.keys, lengths, strict=True):
            write_index(idx_path(paths.column(key)), np.array(sizes, np.int32), np.dtype("<i4"), documents)
    return {
        key: TextRecord(len(sizes), sizes.count(0), sum(sizes)) for key, sizes in zip(paths.keys, lengths, strict=True)
    }
