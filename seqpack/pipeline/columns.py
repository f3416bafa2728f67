"""Preference pairs and prompts to file pairs, one for each column: what a row gives stays a sequence of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import Message, Preference, Question, Sample, Span, TokenizedBatch
from seqpack.io.packed import KINDS, ColumnPaths
from seqpack.options.check import refuse_idle
from seqpack.pipeline.column_parts import LONGER, column_names, join_ledgers, make_column_part, write_parts
from seqpack.pipeline.existing import unchanged_set
from seqpack.pipeline.kinds import check_kind
from seqpack.pipeline.output import DataSetResult, PartsResult, Result, publish_columns, tokenizer_record
from seqpack.pipeline.parts import PartStore, open_parts
from seqpack.pipeline.run import Run
from seqpack.pipeline.samples import SampleSource, check_loss
from seqpack.pipeline.work import MakePart, make_parts
from seqpack.text.encoder import SampleEncoder
from seqpack.text.engines import PIECES_COMPARED, Choice, EngineName, choose_engine
from seqpack.text.labels import REPLIES
from seqpack.text.template import TextTemplate

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


def write_columns(source: SampleSource, maker: ColumnMaker, run: Run) -> Result:
    """Write the set of kind ``pairwise`` or ``prompt``. Raises as ``preprocess`` does, and ConfigError for packing.

    Nothing is cut: a pair with half of an answer, or half a prompt, is another one. What is too long is left out.
    """
    found, is_compat = source.input, run.compat.compat != "none"
    check_kind(found.kind, found.handler, run.text, run.pack)
    if not is_compat:
        refuse_idle(
            run.length,
            ("append_eod", "dedup", "split_sft"),
            because=f"handler {found.handler!r} gives sequences that end as the template says",
            help="leave it out",
        )
    paths = ColumnPaths(run.write.output_prefix, column_names(found))
    tokenizer = tokenizer_record(source.tokenizer, source.eos_token_id, source.pad_token_id)
    recipe = source.recipe | run.recipe()
    if same := unchanged_set(paths, run, recipe, tokenizer, found.files):
        return DataSetResult(paths, same, sources=tuple(found.files), is_unchanged=True)
    engine = choose_column_engine(source, maker, run.text.tokenizer_engine)
    with open_parts(paths.prefix, run.part_settings(recipe, tokenizer), run) as store:
        make = column_part_maker(source, maker, run, store)
        made = make_parts(store, found.files, found.shards(), make, run=run, tokenizer=source.needed_by_workers)
        if run.leaves_parts:
            told = (engine, tuple(found.files), source.note)
            return PartsResult(paths.prefix, store.folder, run.work.share, store.num_finished(), *told)
        parts = made.parts(store)
        ledger = join_ledgers(parts)
        check_loss(ledger, found.files, run.length)
        aside = replace(paths, prefix=store.final / paths.prefix.name)
        manifest = publish_columns(
            aside,
            paths,
            run,
            kind=found.kind,
            ledger=ledger,
            tokenizer=tokenizer,
            recipe=recipe | {"tokenizer_engine": engine.label},
            inputs=made.records(),
            texts=write_parts(parts, aside, keeps_places=maker.keeps_places),
        )
        store.remove()
    if is_compat and run.length.append_eod:
        run.say(f"--append-eod has no effect on {KINDS[found.kind]}, as in MindSpeed-LLM")
    if LONGER in ledger.dropped:
        run.say("what is longer than --seq-length was left out as a whole: half an answer, or prompt, is another one")
    return DataSetResult(paths, manifest, engine, tuple(found.files), note=source.note)


def column_part_maker(source: SampleSource, maker: ColumnMaker, run: Run, store: PartStore) -> MakePart:
    """Makes the parts of such a set."""
    return lambda shard, advance: make_column_part(source.uncounted(), maker, shard, run.length, store, advance)


def choose_column_engine(source: SampleSource, maker: ColumnMaker, wanted: EngineName) -> Choice:
    """As ``SampleSource.choose_engine``, with what the maker renders."""

    def pieces() -> list[str]:
        rendered = (item for _, _, item in source.input.rows(lambda items: [maker.render(item) for item in items]))
        spans = (span.text for item in rendered if not isinstance(item, str) for part in item for span in part)
        return list(islice(spans, PIECES_COMPARED))

    choice = choose_engine(source.tokenizer, wanted, pieces=pieces)
    source.encoder = SampleEncoder(choice.engine, source.control)
    return choice
