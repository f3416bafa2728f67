"""Raw files to tokenized samples: read, handle, render, encode, fit to the length, and account for every row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError, DataLossError, RejectError
from seqpack.core.ledger import Ledger
from seqpack.core.types import Sample, Span, TokenizedBatch, TokenizedSample, join_samples
from seqpack.hooks.specs import PromptTemplate
from seqpack.io.readers import Record
from seqpack.io.shards import Shard
from seqpack.options.check import refuse_idle
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.mindspeed import TOO_LONG, Rules
from seqpack.text.catalog import open_template
from seqpack.text.encoder import encode, encode_spans, truncate, with_end, with_ends
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

    def to_json(self) -> str:
        value = {"key": self.key, "outcome": self.outcome, "reason": self.reason, "tokens": self.tokens}
        return json.dumps(value, ensure_ascii=False)


@dataclass(slots=True)
class SampleSource:
    """Everything that is needed to tokenize conversations, resolved and checked before the first row is rendered.

    ``num_ended`` counts samples that ended with the end token already when ``--append-eod`` came to them.
    """

    input: ResolvedInput
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
    num_ended: int = 0
    mindspeed: Rules | None = None
    is_kept: list[bool] = field(default_factory=list)
    """Under ``mindspeed``: for every sample so far, whether it is in the set."""
    _last_mended: Record | None = None

    @classmethod
    def open(cls, input: ResolvedInput, text: TextOptions) -> SampleSource:
        """Load template and tokenizer; all errors of their configuration come from here."""
        tokenizer = Tokenizer(text.tokenizer)
        opened = open_template(text, tokenizer)
        recipe = input.recipe | {
            "prompt_type": opened.name,
            "template": opened.text,
            "enable_thinking": text.enable_thinking,
            "train_on": text.trained,
            "allow_special_tokens": text.allow_special_tokens,
        }
        return cls(
            input,
            opened.template,
            tokenizer,
            opened.eos_token_id,
            recipe,
            ControlText(tokenizer),
            text.trained,
            text.allow_special_tokens,
            opened.note,
        )

    def uncounted(self) -> SampleSource:
        """The same source before its first row: another pass, or a worker's part, counts for itself."""
        return replace(self, ledger=Ledger(), num_ended=0, is_kept=[], _last_mended=None)

    @property
    def files(self) -> list[Path]:
        return self.input.files

    def findings(self) -> list[Finding]:
        """What is wrong with the labels of the first samples of the data."""
        first = list(islice(self._first_samples(), SAMPLES_CHECKED))
        return LabelCheck(self.template, self.tokenizer, self.control, self.eos_token_id).findings(first)

    def _first_samples(self) -> Iterator[Sample]:
        """Samples that the template can render, each with its key."""
        for _, record, sample in self.input.rows(self._renderable):
            if isinstance(sample, Sample):
                yield replace(sample, key=record.key)

    def _renderable(self, samples: Sequence[Sample]) -> list[Sample]:
        self._spans(samples)  # RejectError if the template cannot use them
        return self._chosen(samples)

    def _chosen(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with what is to be trained on."""
        return [choose(sample, self.train_on) for sample in samples]

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
            rows = self._render()
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
        ``--on-overlong error``, a sample that is too long; ConfigError for ``--append-eod`` without an end token.
        """
        if length.append_eod:
            require_end_token(self.tokenizer, self.eos_token_id)
        rendered = self._render(shards)
        while batch := _take(rendered):
            yield self._fit(batch, length, lost) if self.mindspeed is None else self._fit_as_mindspeed(batch, lost)

    def _render(self, shards: Iterable[Shard] | None = None) -> Iterator[_Rendered]:
        return self.input.rows(self._spans, shards)

    def _spans(self, samples: Sequence[Sample]) -> list[list[Span]]:
        """The spans of all samples of a record; RejectError if the template cannot use it."""
        rendered = []
        for sample in self._chosen(samples):
            spans = self.template.spans(sample)
            rendered.append(list(spans) if self.allow_special_tokens else self.control.guard(spans))
            check_unicode(span.text for span in rendered[-1])
        return rendered

    def _count_mended(self, record: Record, lost: Callable[[Loss], None]) -> None:
        if record.num_mended and record is not self._last_mended:  # a record may give several samples
            self._last_mended = record
            mend_row(self.ledger, lost, record)

    def _fit(self, batch: Sequence[_Rendered], length: LengthOptions, lost: Callable[[Loss], None]) -> KeptBatch:
        """Encode what was rendered, and look one by one only at what cannot be kept as it is."""
        samples = [(file, record, spans) for file, record, spans in batch if not isinstance(spans, str)]
        tokens = encode(self.engine or self.tokenizer, [spans for _, _, spans in samples], self.control)
        if length.append_eod:
            tokens = self._ended(tokens)
        lengths, num_trained = tokens.lengths, tokens.num_trained
        is_odd = num_trained == 0
        if length.seq_length is not None and length.on_overlong != "split":
            is_odd |= lengths > length.seq_length
        whole = ~is_odd
        self.ledger.keep_whole(int(whole.sum()), int(lengths.sum(where=whole)), int(num_trained.sum(where=whole)))
        changes: dict[int, TokenizedSample | None] = {}
        number = 0
        if is_odd.any() or len(samples) < len(batch) or any(record.num_mended for _, record, _ in batch):
            for _, record, spans in batch:  # in the order of the data, so that batches do not show in what is listed
                self._count_mended(record, lost)
                if isinstance(spans, str):
                    reject_row(self.ledger, lost, record, spans)
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
                reject_row(self.ledger, lost, record, spans)
                continue
            sample = next(fitted)
            cut, original = sample.tokens, sample.original_length
            self.is_kept.append(sample.is_kept)
            if not sample.is_kept:
                self.ledger.drop(TOO_LONG, original)
                lost(Loss(record.key, "dropped", TOO_LONG, original))
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
                help="raise it, or choose --on-overlong truncate | drop | split",
            )
        shortened = self._truncate(spans, limit, length) if length.on_overlong == "truncate" else None
        if shortened is None:
            reason = "longer than --seq-length" if length.on_overlong == "drop" else "no room for a trained token"
            self.ledger.drop(reason, len(tokens))
            lost(Loss(key, "dropped", reason, len(tokens)))
            return None
        self.ledger.keep(len(shortened), shortened.num_trained, original=len(tokens))
        lost(Loss(key, "truncated", "longer than --seq-length", len(tokens) - len(shortened)))
        return shortened

    def _truncate(self, spans: Sequence[Span], limit: int, length: LengthOptions) -> TokenizedSample | None:
        """The sample cut to ``limit`` tokens, the end token of ``--append-eod`` among them."""
        shortened = truncate(self.tokenizer, spans, limit, self.control)
        if shortened is None or not length.append_eod:
            return shortened
        end = require_end_token(self.tokenizer, self.eos_token_id)
        if len(with_end(shortened, end)) > limit:
            shortened = truncate(self.tokenizer, spans, limit - 1, self.control)
        return None if shortened is None else with_end(shortened, end)

    def _ended(self, tokens: TokenizedBatch) -> TokenizedBatch:
        """The end token behind every sample with something to train on, unless that is how it ends."""
        ended, num_ended = with_ends(tokens, require_end_token(self.tokenizer, self.eos_token_id))
        self.num_ended += num_ended
        return ended

    def check_loss(self, length: LengthOptions) -> None:
        """DataError if nothing is left, DataLossError if more than ``--max-drop`` of the rows is missing."""
        check_loss(self.ledger, self.files, length)


def check_loss(ledger: Ledger, files: Sequence[Path], length: LengthOptions) -> None:
    """DataError if nothing is left, DataLossError if more than ``--max-drop`` of the rows is missing."""
    ledger.check()
    reasons = {**ledger.rejected, **{reason: count.samples for reason, count in ledger.dropped.items()}}
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda x: -x[1]))
    if not ledger.rows:
        raise DataError("SP109", f"no rows in {', '.join(map(str, files))}", help="check --input")
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
    """ConfigError if packing, or what to do with long samples, is asked for without a length."""
    if packs and length.seq_length is None:
        raise ConfigError("SP008", "packing needs --seq-length", help="add --seq-length, for example 2048")
    if length.seq_length is None:
        refuse_idle(
            length, ("on_overlong",), because="without --seq-length no sample is too long", help="add --seq-length"
        )


def require_end_token(tokenizer: Tokenizer, end_token_id: int | None) -> int:
    """The end token's id; ConfigError if there is none to append."""
    if end_token_id is None:
        raise ConfigError(
            "SP016",
            f"--append-eod: the tokenizer {tokenizer.directory} names no end token",
            help="add eos_token to its tokenizer_config.json",
        )
    return end_token_id


def reject_row(ledger: Ledger, lost: Callable[[Loss], None], record: Record, reason: str) -> None:
    """Count a row that cannot be used, and report it."""
    ledger.reject(reason)
    lost(Loss(record.key, "rejected", reason, 0))


def mend_row(ledger: Ledger, lost: Callable[[Loss], None], record: Record) -> None:
    """Count a row whose text its reader had to mend, and report it."""
    ledger.mended += 1
    lost(Loss(record.key, "mended", "half of a surrogate pair, which is not Unicode, became U+FFFD", 0))


def check_unicode(texts: Iterable[str]) -> None:
    """RejectError for half a surrogate pair, at which the tokenizer would stop.

    Readers mend it in the rows themselves, but a handler may unpack JSON inside a text, such as a tool's arguments.
    """
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise RejectError("text with half a surrogate pair, which is not Unicode") from None


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
