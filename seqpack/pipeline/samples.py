"""Raw files to tokenized samples: read, handle, render, encode, fit to the length, and account for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from seqpack.core.errors import ConfigError, DataError, DataLossError, RejectError, SeqpackError
from seqpack.core.ledger import Ledger
from seqpack.core.types import Sample, Span, TokenizedSample
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import DatasetHandler, PromptTemplate
from seqpack.io.readers import Record, read_records, resolve_inputs
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.text.catalog import open_template
from seqpack.text.encoder import encode, truncate
from seqpack.text.labels import Finding, LabelCheck, TrainOn, choose
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer

SAMPLES_PER_BATCH = 1024
SAMPLES_CHECKED = 16
"""So many samples, the first ones, are looked at for labels that are wrong."""

Outcome = Literal["rejected", "dropped", "truncated"]


@dataclass(frozen=True, slots=True)
class KeptSample:
    """A sample that goes into the set, with the place it comes from."""

    tokens: TokenizedSample
    file: int
    line: int
    original_length: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A row that is not in the set, or not whole: one line of ``rejects.jsonl``."""

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
    ledger: Ledger = field(default_factory=Ledger)
    _first: list[Sample] = field(default_factory=list)

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
        """What is wrong with the labels of the first samples read so far."""
        return LabelCheck(self.template, self.tokenizer, self.control, self.eos_token_id).findings(self._first)

    def tokenize(self, length: LengthOptions, *, lost: Callable[[Loss], None]) -> Iterator[list[KeptSample]]:
        """Batches of samples in the order of the data; ``lost`` hears of every row that is not kept whole.

        Raises DataError for a file that cannot be read, a file without the columns the handler needs, and, under
        ``--on-overlong error``, a sample that is too long.
        """
        rendered = self._render(lost)
        while batch := list(islice(rendered, SAMPLES_PER_BATCH)):
            tokenized = encode(self.tokenizer, [spans for _, _, spans in batch], self.control)
            kept: list[KeptSample] = []
            for (file, record, spans), tokens in zip(batch, tokenized, strict=True):
                fitted = self._fit(record.key, spans, tokens, length, lost)
                if fitted is not None:
                    kept.append(KeptSample(fitted, file, record.line, len(tokens)))
            yield kept

    def _render(self, lost: Callable[[Loss], None]) -> Iterator[tuple[int, Record, list[Span]]]:
        for number, file in enumerate(self.files):
            is_first = True
            for record in read_records(file):
                try:
                    yield from ((number, record, spans) for spans in self._handle(record))
                except RejectError as reject:
                    if reject.missing_column and is_first:
                        raise _wrong_columns(record, reject) from reject
                    self.ledger.reject(reject.reason)
                    lost(Loss(record.key, "rejected", reject.reason, 0))
                is_first = False

    def _handle(self, record: Record) -> list[list[Span]]:
        """The spans of all samples of a record; RejectError if the handler or the template cannot use it."""
        if not isinstance(record.value, dict):
            raise RejectError(f"a JSON {type(record.value).__name__}, not an object")
        try:
            samples: Sequence[Sample] = [choose(sample, self.train_on) for sample in self.handler(record.value)]
            rendered = [self._spans(sample) for sample in samples]
        except (RejectError, SeqpackError):
            raise
        except Exception as error:
            raise DataError(
                "SP107",
                f"{record.key}: handler {self.recipe['handler']!r} failed with {type(error).__name__}: {error}",
                help="mend that row, or the handler (it should raise RejectError for rows it cannot use)",
            ) from error
        if not all(_is_unicode(span.text) for spans in rendered for span in spans):
            raise RejectError("text with half a surrogate pair, which is not Unicode")
        self._remember(record.key, samples)
        return rendered

    def _spans(self, sample: Sample) -> list[Span]:
        spans = self.template.spans(sample)
        return list(spans) if self.allow_special_tokens else self.control.guard(spans)

    def _remember(self, key: str, samples: Sequence[Sample]) -> None:
        if len(self._first) < SAMPLES_CHECKED:
            self._first += [replace(sample, key=key) for sample in samples[: SAMPLES_CHECKED - len(self._first)]]

    def _fit(
        self,
        key: str,
        spans: list[Span],
        tokens: TokenizedSample,
        length: LengthOptions,
        lost: Callable[[Loss], None],
    ) -> TokenizedSample | None:
        if not tokens.num_trained:
            self.ledger.drop("nothing to train on", len(tokens))
            lost(Loss(key, "dropped", "nothing to train on", len(tokens)))
            return None
        limit = length.seq_length
        if limit is None or len(tokens) <= limit:
            self.ledger.keep(len(tokens), tokens.num_trained)
            return tokens
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


def _is_unicode(text: str) -> bool:
    # JSON can spell "\ud800", half of a character; the tokenizer would stop the run with a TypeError
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_columns(record: Record, reject: RejectError) -> DataError:
    columns = ", ".join(map(str, record.value))
    return DataError(
        "SP110",
        f"{record.key}: {reject.reason}; its columns are: {columns}",
        help="name the data's columns with --map-keys, or choose another --handler",
    )
