"""Raw files to tokenized samples: read, handle, render, encode, fit to the length, and account for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from seqpack.core.errors import ConfigError, DataError, DataLossError, RejectError
from seqpack.core.ledger import Ledger
from seqpack.core.types import Sample, Span, TokenizedSample
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PromptTemplate
from seqpack.io.readers import Record
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.text.encoder import encode, truncate, with_end
from seqpack.text.template import TextTemplate, load_template, template_text
from seqpack.text.tokenizer import Tokenizer

SAMPLES_PER_BATCH = 1024

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
    """Everything that is needed to tokenize conversations, resolved and checked before the first row is rendered.

    ``num_ended`` counts samples that ended with the end token already when ``--append-eod`` came to them.
    """

    input: ResolvedInput
    template: PromptTemplate
    tokenizer: Tokenizer
    eos_token_id: int | None
    recipe: dict[str, Any]
    ledger: Ledger = field(default_factory=Ledger)
    num_ended: int = 0

    @property
    def files(self) -> list[Path]:
        return self.input.files

    @classmethod
    def open(cls, input: ResolvedInput, text: TextOptions) -> SampleSource:
        """Load template and tokenizer; all errors of their configuration come from here."""
        template = plugin_host().template(text.prompt_type)
        tokenizer = Tokenizer(text.tokenizer)
        prompt = load_template(template, tokenizer)
        eos_token_id = tokenizer.eos_token_id
        if isinstance(prompt, TextTemplate):
            eos_token_id = prompt.check_tokens(tokenizer, name=template.name)
        recipe = input.recipe | {"prompt_type": template.name, "template": template_text(template)}
        return cls(input, prompt, tokenizer, eos_token_id, recipe)

    def tokenize(self, length: LengthOptions, *, lost: Callable[[Loss], None]) -> Iterator[list[KeptSample]]:
        """Batches of samples in the order of the data; ``lost`` hears of every row that is not kept whole.

        Raises DataError for a file that cannot be read, a file without the columns the handler needs, and, under
        ``--on-overlong error``, a sample that is too long; ConfigError for ``--append-eod`` without an end token.
        """
        if length.append_eod:
            require_end_token(self.tokenizer, self.eos_token_id)
        rendered = self._render(lost)
        while batch := list(islice(rendered, SAMPLES_PER_BATCH)):
            tokenized = encode(self.tokenizer, [spans for _, _, spans in batch])
            kept: list[KeptSample] = []
            for (file, record, spans), whole in zip(batch, tokenized, strict=True):
                tokens = self._ended(whole) if length.append_eod and whole.num_trained else whole
                fitted = self._fit(record.key, spans, tokens, length, lost)
                if fitted is not None:
                    kept.append(KeptSample(fitted, file, record.line, len(tokens)))
            yield kept

    def _render(self, lost: Callable[[Loss], None]) -> Iterator[tuple[int, Record, list[Span]]]:
        return self.input.rows(self._spans, reject=partial(reject_row, self.ledger, lost))

    def _spans(self, samples: Sequence[Sample]) -> list[list[Span]]:
        """The spans of all samples of a record; RejectError if the template cannot use it."""
        rendered = [list(self.template.spans(sample)) for sample in samples]
        for spans in rendered:
            check_unicode(span.text for span in spans)
        return rendered

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
        shortened = self._truncate(spans, limit, length) if length.on_overlong == "truncate" else None
        if shortened is None:
            reason = "longer than --seq-length" if length.on_overlong == "drop" else "no room for a trained token"
            self.ledger.drop(reason, len(tokens))
            lost(Loss(key, "dropped", reason, len(tokens)))
            return None
        self.ledger.keep(len(shortened), shortened.num_trained, original=len(tokens))
        lost(Loss(key, "truncated", "longer than --seq-length", len(tokens) - len(shortened)))
        return shortened

    def _truncate(self, spans: list[Span], limit: int, length: LengthOptions) -> TokenizedSample | None:
        """The sample cut to ``limit`` tokens, the end token of ``--append-eod`` among them."""
        shortened = truncate(self.tokenizer, spans, limit)
        if shortened is None or not length.append_eod:
            return shortened
        end = require_end_token(self.tokenizer, self.eos_token_id)
        if len(with_end(shortened, end)) > limit:
            shortened = truncate(self.tokenizer, spans, limit - 1)
        return None if shortened is None else with_end(shortened, end)

    def _ended(self, tokens: TokenizedSample) -> TokenizedSample:
        end = require_end_token(self.tokenizer, self.eos_token_id)
        self.num_ended += int(tokens.input_ids[-1] == end)
        return with_end(tokens, end)

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
    """ConfigError if packing is asked for without a length."""
    if packs and length.seq_length is None:
        raise ConfigError("SP008", "packing needs --seq-length", help="add --seq-length, for example 2048")


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


def check_unicode(texts: Iterable[str]) -> None:
    """RejectError for half a character, which JSON can spell (``\\ud800``) and at which the tokenizer would stop."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise RejectError("text with half a surrogate pair, which is not Unicode") from None
