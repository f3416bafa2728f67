"""Raw files to tokenized samples: read, handle, render, encode, fit to the length, and account for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError, DataLossError, RejectError, SeqpackError
from seqpack.core.ledger import Ledger
from seqpack.core.types import Sample, Span, TokenizedBatch, TokenizedSample, join_samples
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import DatasetHandler, PromptTemplate
from seqpack.io.readers import Record, resolve_inputs
from seqpack.io.shards import Shard, read_shard, whole_files
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.pipeline.mindspeed import Rules
from seqpack.text.catalog import open_template
from seqpack.text.encoder import encode, encode_spans, truncate
from seqpack.text.engines import PIECES_COMPARED, Choice, Engine, EngineName, choose_engine
from seqpack.text.labels import Finding, LabelCheck, TrainOn, choose
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer

SAMPLES_PER_BATCH = 256
"""With more, Python's collector of cycles walks over thousands of samples again and again."""

CHARACTERS_PER_BATCH = 4_000_000
SAMPLES_CHECKED = 16
"""So many samples, the first ones, are looked at for labels that are wrong."""

Outcome = Literal["rejected", "dropped", "truncated", "mended"]
_Rendered = tuple[int, Record, list[Span] | str]
"""Number of the file, row, and the spans of a sample, or the reason why the row gives none."""


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """Samples that go into the set, with the places they come from; all arrays int64 ``[samples]``.

    ``original_length`` counts the tokens before anything was cut, ``num_trained`` those of ``tokens`` to train on.
    """

    tokens: TokenizedBatch
    num_trained: NDArray[np.int64]
    file: NDArray[np.int64]
    line: NDArray[np.int64]
    original_length: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Loss:
    """A row that is not in the set, or not as it was: one line of ``rejects.jsonl``."""

    key: str
    outcome: Outcome
    reason: str
    tokens: int


@dataclass(slots=True)
class SampleSource:
    """Everything that is needed to tokenize the data, resolved and checked before the first row is read."""

    files: list[Path]
    handler: DatasetHandler
    template: PromptTemplate
    tokenizer: Tokenizer
    eos_token_id: int | None
    recipe: dict[str, Any]
    control: ControlText
    train_on: TrainOn = "assistant"
    allow_special_tokens: bool = False
    note: str = ""
    engine: Engine | None = None
    ledger: Ledger = field(default_factory=Ledger)
    mindspeed: Rules | None = None
    is_kept: list[bool] = field(default_factory=list)
    """Under ``mindspeed``: for every sample so far, whether it is in the set."""
    _last_mended: Record | None = None

    @classmethod
    def open(cls, input: InputOptions, text: TextOptions) -> SampleSource:
        """Resolve names to components and paths to files; all errors of configuration come from here."""
        handler = plugin_host().handler(input.handler)
        files = resolve_inputs(input.input)
        tokenizer = Tokenizer(text.tokenizer)
        opened = open_template(text, tokenizer)
        recipe = {
            "handler": handler.name,
            "map_keys": input.columns(),
            "prompt_type": opened.name,
            "template": opened.text,
            "enable_thinking": text.enable_thinking,
            "train_on": text.trained,
            "allow_special_tokens": text.allow_special_tokens,
        }
        return cls(
            files,
            handler.create(input.columns()),
            opened.template,
            tokenizer,
            opened.eos_token_id,
            recipe,
            ControlText(tokenizer),
            text.trained,
            text.allow_special_tokens,
            opened.note,
        )

    def findings(self) -> list[Finding]:
        """What is wrong with the labels of the first samples of the data."""
        first = list(islice(self._first_samples(), SAMPLES_CHECKED))
        return LabelCheck(self.template, self.tokenizer, self.control, self.eos_token_id).findings(first)

    def _first_samples(self) -> Iterator[Sample]:
        """Samples that the template can render, each with its key."""
        for shard in whole_files(self.files):
            for record in read_shard(shard):
                try:
                    samples = self._samples(record)
                    for sample in samples:
                        self._spans(sample)
                except RejectError:
                    continue
                yield from (replace(sample, key=record.key) for sample in samples)

    @property
    def pad_token_id(self) -> int:
        """The id packs are filled up with."""
        if self.mindspeed is None or self.tokenizer.has_pad_token:
            return self.tokenizer.pad_token_id
        # they set it after the template has replaced the end token
        return self.eos_token_id or self.tokenizer.pad_token_id

    def choose_engine(self, wanted: EngineName) -> Choice:
        """Decide who encodes; ``tokenize`` uses ``tokenizers`` unless this was called. DeviceError if not installed."""

        def pieces() -> list[str]:
            rows = self._render(whole_files(self.files))
            texts = (span.text for _, _, spans in rows if not isinstance(spans, str) for span in spans)
            return list(islice(texts, PIECES_COMPARED))

        size = sum(file.stat().st_size for file in self.files)
        choice = choose_engine(self.tokenizer, wanted, num_bytes=size, pieces=pieces)
        self.engine = choice.engine
        return choice

    def tokenize(
        self, length: LengthOptions, *, lost: Callable[[Loss], None], shards: Iterable[Shard] | None = None
    ) -> Iterator[KeptBatch]:
        """Batches of samples in the order of the data; ``lost`` hears of every row that is not kept whole.

        ``shards`` are the parts of the data to read, all of them by default.

        Raises DataError for a file that cannot be read, a file without the columns the handler needs, and, under
        ``--on-overlong error``, a sample that is too long.
        """
        rendered = self._render(whole_files(self.files) if shards is None else shards)
        while batch := _take(rendered):
            yield self._fit(batch, length, lost) if self.mindspeed is None else self._fit_as_mindspeed(batch, lost)

    def _render(self, shards: Iterable[Shard]) -> Iterator[_Rendered]:
        for shard in shards:
            is_first = shard.first_line == 1
            for record in read_shard(shard):
                try:
                    for spans in self._handle(record):
                        yield shard.number, record, spans
                except RejectError as reject:
                    if reject.missing_column and is_first:
                        raise _wrong_columns(record, reject) from reject
                    yield shard.number, record, reject.reason
                is_first = False

    def _count_mended(self, record: Record, lost: Callable[[Loss], None]) -> None:
        if record.num_mended and record is not self._last_mended:  # a record may give several samples
            self._last_mended = record
            self.ledger.mended += 1
            lost(Loss(record.key, "mended", "half of a surrogate pair, which is not Unicode, became U+FFFD", 0))

    def _handle(self, record: Record) -> list[list[Span]]:
        """The spans of all samples of a record; RejectError if the handler or the template cannot use it."""
        try:
            return [self._spans(sample) for sample in self._samples(record)]
        except (RejectError, SeqpackError):
            raise
        except Exception as error:
            raise DataError(
                "SP107",
                f"{record.key}: handler {self.recipe['handler']!r} failed with {type(error).__name__}: {error}",
                help="mend that row, or the handler (it should raise RejectError for rows it cannot use)",
            ) from error

    def _samples(self, record: Record) -> list[Sample]:
        """What the handler makes of a record, with what is to be trained on."""
        if not isinstance(record.value, dict):
            raise RejectError(f"a JSON {type(record.value).__name__}, not an object")
        return [choose(sample, self.train_on) for sample in self.handler(record.value)]

    def _spans(self, sample: Sample) -> list[Span]:
        spans = self.template.spans(sample)
        return list(spans) if self.allow_special_tokens else self.control.guard(spans)

    def _fit(self, batch: Sequence[_Rendered], length: LengthOptions, lost: Callable[[Loss], None]) -> KeptBatch:
        """Encode what was rendered, and look one by one only at what cannot be kept as it is."""
        samples = [(file, record, spans) for file, record, spans in batch if not isinstance(spans, str)]
        tokens = encode(self.engine or self.tokenizer, [spans for _, _, spans in samples], self.control)
        lengths, num_trained = tokens.lengths, tokens.num_trained
        is_odd = num_trained == 0
        if length.seq_length is not None:
            is_odd |= lengths > length.seq_length
        whole = ~is_odd
        self.ledger.keep_whole(int(whole.sum()), int(lengths.sum(where=whole)), int(num_trained.sum(where=whole)))
        changes: dict[int, TokenizedSample | None] = {}
        number = 0
        if is_odd.any() or len(samples) < len(batch) or any(record.num_mended for _, record, _ in batch):
            for _, record, spans in batch:  # in the order of the data, so that batches do not show in what is listed
                self._count_mended(record, lost)
                if isinstance(spans, str):
                    self.ledger.reject(spans)
                    lost(Loss(record.key, "rejected", spans, 0))
                    continue
                if is_odd[number]:
                    changes[number] = self._fit_odd(record.key, spans, tokens[number], length, lost)
                number += 1
        is_kept = np.ones(len(samples), np.bool_)
        is_kept[[number for number, sample in changes.items() if sample is None]] = False
        files = np.fromiter((file for file, _, _ in samples), np.int64, len(samples))
        lines = np.fromiter((record.line for _, record, _ in samples), np.int64, len(samples))
        if changes:
            tokens = tokens.replace(changes)
            num_trained = tokens.num_trained
        return KeptBatch(tokens, num_trained, files[is_kept], lines[is_kept], lengths[is_kept])

    def _fit_as_mindspeed(self, batch: Sequence[_Rendered], lost: Callable[[Loss], None]) -> KeptBatch:
        """The same samples with the cuts of MindSpeed-LLM."""
        assert self.mindspeed is not None
        spans_of = [spans for _, _, spans in batch if not isinstance(spans, str)]
        fitted = iter(self.mindspeed.fit(encode_spans(self.engine or self.tokenizer, spans_of), spans_of))
        kept: list[tuple[TokenizedSample, int, int, int]] = []
        for file, record, spans in batch:
            self._count_mended(record, lost)
            if isinstance(spans, str):
                self.ledger.reject(spans)
                lost(Loss(record.key, "rejected", spans, 0))
                continue
            sample = next(fitted)
            cut, original = sample.tokens, sample.original_length
            self.is_kept.append(sample.is_kept)
            if not sample.is_kept:
                reason = "as long as --seq-length, which MindSpeed-LLM drops"
                self.ledger.drop(reason, original)
                lost(Loss(record.key, "dropped", reason, original))
                continue
            self.ledger.keep(len(cut), cut.num_trained, original=original)
            if len(cut) < original:
                lost(Loss(record.key, "truncated", "cut as MindSpeed-LLM cuts", original - len(cut)))
            kept.append((cut, file, record.line, original))
        files, lines, lengths = np.array([row[1:] for row in kept], np.int64).reshape(-1, 3).T
        tokens = join_samples([row[0] for row in kept])
        return KeptBatch(tokens, tokens.num_trained, files, lines, lengths)

    def _fit_odd(
        self,
        key: str,
        spans: Sequence[Span],
        tokens: TokenizedSample,
        length: LengthOptions,
        lost: Callable[[Loss], None],
    ) -> TokenizedSample | None:
        """What is left of a sample that is too long, or without anything to train on."""
        if not tokens.num_trained:
            self.ledger.drop("nothing to train on", len(tokens))
            lost(Loss(key, "dropped", "nothing to train on", len(tokens)))
            return None
        limit = length.seq_length
        assert limit is not None
        if length.on_overlong == "error":
            raise DataError(
                "SP108",
                f"{key}: {len(tokens):,} tokens do not fit --seq-length {limit:,}",
                help="raise it, or choose --on-overlong truncate | drop",
            )
        shortened = truncate(self.tokenizer, spans, limit, self.control) if length.on_overlong == "truncate" else None
        if shortened is None:
            reason = "longer than --seq-length" if length.on_overlong == "drop" else "no room for a trained token"
            self.ledger.drop(reason, len(tokens))
            lost(Loss(key, "dropped", reason, len(tokens)))
            return None
        self.ledger.keep(len(shortened), shortened.num_trained, original=len(tokens))
        lost(Loss(key, "truncated", "longer than --seq-length", len(tokens) - len(shortened)))
        return shortened

    def check_loss(self, length: LengthOptions) -> None:
        """DataError if nothing is left, DataLossError if more than ``--max-drop`` of the rows is missing."""
        ledger = self.ledger
        ledger.check()
        reasons = {**ledger.rejected, **{reason: count.samples for reason, count in ledger.dropped.items()}}
        listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda x: -x[1]))
        if not ledger.rows:
            raise DataError("SP109", f"no rows in {', '.join(map(str, self.files))}", help="check --input")
        if not ledger.kept.samples:
            longest = " raise --seq-length;" if ledger.dropped else ""
            raise DataError(
                "SP109",
                f"none of {ledger.rows:,} rows can be used: {listed}",
                help=f"{longest} check --handler and --map-keys".strip(),
            )
        if ledger.loss_share > length.max_drop:
            raise DataLossError(
                "SP102",
                f"{ledger.loss_share:.1%} of {ledger.rows:,} rows would be left out, --max-drop is "
                f"{length.max_drop:.1%}: {listed}",
                help="mend the data, choose --on-overlong truncate, or raise --max-drop; nothing was written",
            )


def check_length(length: LengthOptions, *, packs: bool) -> None:
    """ConfigError if packing is asked for without a length."""
    if packs and length.seq_length is None:
        raise ConfigError("SP008", "packing needs --seq-length", help="add --seq-length, for example 2048")


def _take(rendered: Iterator[_Rendered]) -> list[_Rendered]:
    """The next batch, empty at the end; both bounds keep memory small, whatever the samples are like."""
    batch: list[_Rendered] = []
    size = 0
    for item in rendered:
        batch.append(item)
        size += sum([len(span.text) for span in item[2]]) if not isinstance(item[2], str) else 0
        if len(batch) >= SAMPLES_PER_BATCH or size >= CHARACTERS_PER_BATCH:
            break
    return batch


def _wrong_columns(record: Record, reject: RejectError) -> DataError:
    columns = ", ".join(map(str, record.value))
    return DataError(
        "SP110",
        f"{record.key}: {reject.reason}; its columns are: {columns}",
        help="name the data's columns with --map-keys, or choose another --handler",
    )
