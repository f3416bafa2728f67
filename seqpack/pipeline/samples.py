"""Raw files to tokenized samples: read, handle, render, encode, fit to the length, and account for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError, DataLossError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress
from seqpack.core.types import Dialogue, Sample, TokenizedBatch, TokenizedSample, join_samples
from seqpack.hooks.specs import PromptTemplate
from seqpack.io.readers import Record
from seqpack.io.shards import Shard
from seqpack.options.check import refuse_idle
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.distribute import Advance, distribute
from seqpack.pipeline.inputs import ResolvedInput, Row
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.mindspeed import CUT, TOO_LONG, Rules
from seqpack.pipeline.overlong import Fitter
from seqpack.pipeline.oversize import SAMPLE_CHARACTERS, check_size, is_small
from seqpack.text.catalog import open_template
from seqpack.text.encoder import SampleEncoder, with_ends
from seqpack.text.engines import PIECES_COMPARED, Choice, EngineName, choose_engine
from seqpack.text.labels import Finding, LabelCheck, TrainOn, choose
from seqpack.text.layout import Filled, Rendered, Renderer
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer

T = TypeVar("T")

SAMPLES_PER_BATCH = 2048

CHARACTERS_PER_BATCH = 2_000_000
SAMPLES_CHECKED = 16
"""So many samples, the first ones, are looked at for labels that are wrong."""


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
    renderer: Renderer
    encoder: SampleEncoder
    train_on: TrainOn = "assistant"
    note: str = ""
    ledger: Ledger = field(default_factory=Ledger)
    num_ended: int = 0
    mindspeed: Rules | None = None
    is_kept: list[bool] = field(default_factory=list)
    """Under ``mindspeed``: for every sample so far, whether it is in the set."""

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
        control = ControlText(tokenizer)
        return cls(
            input,
            opened.template,
            tokenizer,
            opened.eos_token_id,
            recipe,
            control,
            Renderer(opened.template, None if text.allow_special_tokens else control),
            SampleEncoder(tokenizer, control),
            text.trained,
            opened.note,
        )

    def uncounted(self) -> SampleSource:
        """The same source before its first row: another pass, or a worker's part, counts for itself."""
        return replace(self, ledger=Ledger(), num_ended=0, is_kept=[])

    @property
    def files(self) -> list[Path]:
        return self.input.files

    def findings(self) -> list[Finding]:
        """What is wrong with the labels of the first samples of the data."""
        first = list(islice(self._first_samples(), SAMPLES_CHECKED))
        return LabelCheck(self.template, self.tokenizer, self.control, self.encoder, self.eos_token_id).findings(first)

    def _first_samples(self) -> Iterator[Sample]:
        """Samples that the template can render, each with its key."""
        for _, record, sample in self.input.rows(self._renderable):
            if isinstance(sample, Sample):
                yield sample._replace(key=record.key)

    def _renderable(self, samples: Sequence[Sample]) -> list[Sample]:
        samples = [item.sample for item in self._rendered(samples)]  # RejectError if the template cannot use them
        return [sample for sample in samples if is_small(sample)]

    def _rendered(self, samples: Sequence[Sample]) -> list[Rendered]:
        """The samples with what is to be trained on, rendered; RejectError if the template cannot use one."""
        return [self.renderer.render(choose(sample, self.train_on)) for sample in samples]

    def _filled(self, dialogues: Sequence[Dialogue | None]) -> list[Filled | None]:
        """Those that need no closer look, as ``_rendered`` would render them."""
        return self.renderer.fill(dialogues) if self.train_on == "assistant" else [None] * len(dialogues)

    @property
    def pad_token_id(self) -> int:
        """The id packs are filled up with."""
        if self.mindspeed is None or self.tokenizer.has_pad_token:
            return self.tokenizer.pad_token_id
        # they set it after the template has replaced the end token
        return self.tokenizer.pad_token_id if self.eos_token_id is None else self.eos_token_id

    def choose_engine(self, wanted: EngineName) -> Choice:
        """Decide who encodes; ``tokenize`` uses ``tokenizers`` unless this was called. DeviceError if not installed."""

        def pieces() -> list[str]:
            samples = self.input.rows(self._renderable)
            spans = (self.renderer.spans(sample) for _, _, sample in samples if isinstance(sample, Sample))
            return list(islice((span.text for sample in spans for span in sample), PIECES_COMPARED))

        choice = choose_engine(self.tokenizer, wanted, pieces=pieces)
        self.encoder = SampleEncoder(choice.engine, self.control)
        return choice

    @property
    def needed_by_workers(self) -> Tokenizer | None:
        """The tokenizer, unless a fast engine encodes: then only samples that are too long need it."""
        return self.tokenizer if self.encoder.engine is self.tokenizer else None

    def in_parts(
        self, work: Callable[[SampleSource, Shard, Advance], T], *, workers: int | None, progress: Progress
    ) -> list[T]:
        """What ``work`` makes of each shard, with a source of its own; this one's ledger counts the rows of all.

        The parts come in the order of the data; errors are those of ``distribute``.
        """

        def serve(shard: Shard, advance: Advance) -> tuple[tuple[T, Ledger], int]:
            mine = self.uncounted()
            part = work(mine, shard, advance)
            return (part, mine.ledger), mine.ledger.kept.samples

        tokenizer = self.needed_by_workers
        results = distribute(
            self.input.shards(), serve, files=self.files, tokenizer=tokenizer, workers=workers, progress=progress
        )
        parts = []
        for part, ledger in results:
            self.ledger.add(ledger)
            parts.append(part)
        return parts

    def forget_engine(self) -> None:
        """Give back the memory of an engine that is not needed any more."""
        self.encoder = SampleEncoder(self.tokenizer, self.control)

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
        blocks = self.input.batches(self._rendered, self._filled, shards)
        for batch in _batches(blocks, length):
            yield self._fit(batch, length, lost) if self.mindspeed is None else self._fit_as_mindspeed(batch, lost)

    def _fit(self, batch: Sequence[Row[Rendered]], length: LengthOptions, lost: Callable[[Loss], None]) -> KeptBatch:
        """Encode what was rendered, and look one by one only at what cannot be kept as it is."""
        samples = [(file, record.line, item) for file, record, item in batch if not isinstance(item, str)]
        rendered = [item for _, _, item in samples]
        tokens = self.encoder.encode(rendered)
        if length.append_eod:
            tokens = self._ended(tokens)
        lengths, num_trained = tokens.lengths, tokens.num_trained
        is_odd = num_trained == 0
        if length.seq_length is not None:
            is_odd |= lengths > length.seq_length
        whole = ~is_odd
        self.ledger.keep_whole(int(whole.sum()), int(lengths.sum(where=whole)), int(num_trained.sum(where=whole)))
        changes: dict[int, Sequence[TokenizedSample]] = {}
        number = 0
        fitter = self._fitter(length, lost)
        if is_odd.any() or len(samples) < len(batch) or any(record.num_mended for _, record, _ in batch):
            for _, record, sample in batch:  # in the order of the data, so that batches do not show in what is listed
                if not count_row(self.ledger, lost, record, sample):
                    continue
                if is_odd[number]:
                    changes[number] = fitter.fit(record.key, rendered[number].sample, tokens[number])
                number += 1
        num_parts = np.ones(len(samples), np.int64)
        num_parts[list(changes)] = [len(parts) for parts in changes.values()]
        files = np.fromiter((file for file, _, _ in samples), np.int64, len(samples))
        lines = np.fromiter((line for _, line, _ in samples), np.int64, len(samples))
        if changes:
            tokens = tokens.replace(changes)
            num_trained = tokens.num_trained
        original = np.repeat(lengths, num_parts)
        if length.on_overlong == "split":  # a part is a sample of its own
            original = tokens.lengths
        return KeptBatch(tokens, num_trained, np.repeat(files, num_parts), np.repeat(lines, num_parts), original)

    def _fit_as_mindspeed(self, batch: Sequence[Row[Rendered]], lost: Callable[[Loss], None]) -> KeptBatch:
        """The same samples with the cuts of MindSpeed-LLM."""
        assert self.mindspeed is not None
        spans_of = [self.renderer.spans(row.sample) for _, _, row in batch if not isinstance(row, str)]
        fitted = iter(self.mindspeed.fit(self.encoder.encode_spans(spans_of), spans_of))
        kept: list[tuple[TokenizedSample, int, int, int]] = []
        for file, record, row in batch:
            if not count_row(self.ledger, lost, record, row):
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
                lost(Loss(record.key, "truncated", CUT, original - len(cut)))
            kept.append((cut, file, record.line, original))
        files, lines, lengths = np.array([row[1:] for row in kept], np.int64).reshape(-1, 3).T
        tokens = join_samples([row[0] for row in kept])
        return KeptBatch(tokens, tokens.num_trained, files, lines, lengths)

    def _fitter(self, length: LengthOptions, lost: Callable[[Loss], None]) -> Fitter:
        end = require_end_token(self.tokenizer, self.eos_token_id) if length.append_eod else None
        return Fitter(self.renderer.spans, self.tokenizer, self.control, length, end, self.ledger, lost)

    def _ended(self, tokens: TokenizedBatch) -> TokenizedBatch:
        """The end token behind every sample with something to train on, unless that is how it ends."""
        ended, num_ended = with_ends(tokens, require_end_token(self.tokenizer, self.eos_token_id))
        self.num_ended += num_ended
        return ended


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
            help="mend the data, raise --max-drop, or cut long rows with preprocess --on-overlong truncate; nothing "
            "was written",
        )


def check_length(length: LengthOptions, *, packs: bool) -> None:
    """ConfigError if packing, or what to do with long samples, is asked for without a length."""
    if packs and length.seq_length is None:
        raise ConfigError("SP008", "packing needs --seq-length", help="add --seq-length, for example 2048")
    if length.seq_length is None:
        refuse_idle(
            length,
            ("on_overlong", "split_sft"),
            because="without --seq-length no sample is too long",
            help="add --seq-length",
        )
    if length.on_overlong != "split":
        refuse_idle(
            length, ("split_sft",), because="no sample is split", help="add --on-overlong split, or leave it out"
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


def count_row(ledger: Ledger, lost: Callable[[Loss], None], record: Record, item: object) -> bool:
    """Count and report a row that was mended, and one that gives a reason, a str, instead of an item: False then."""
    if record.num_mended:
        ledger.mended += 1
        lost(Loss(record.key, "mended", "half of a surrogate pair, which is not Unicode, became U+FFFD", 0))
    if not isinstance(item, str):
        return True
    ledger.reject(item)
    lost(Loss(record.key, "rejected", item, 0))
    return False


def _batches(blocks: Iterable[list[Row[Rendered]]], length: LengthOptions) -> Iterator[list[Row[Rendered]]]:
    """The rows in batches; both bounds, which a block may exceed, keep memory small, whatever the samples are like."""
    batch: list[Row[Rendered]] = []
    size = 0
    for block in blocks:
        sizes = [0 if isinstance(item, str) else item.num_characters for _, _, item in block]
        if max(sizes, default=0) > SAMPLE_CHARACTERS:
            block, sizes = _without_giants(block, sizes, length)
        batch += block
        size += sum(sizes)
        if len(batch) >= SAMPLES_PER_BATCH or size >= CHARACTERS_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _without_giants(
    block: list[Row[Rendered]], sizes: list[int], length: LengthOptions
) -> tuple[list[Row[Rendered]], list[int]]:
    """The rows, with a reason instead of each sample that is too large to be encoded at all."""
    reasons = [check_size(size, length, record.key) for (_, record, _), size in zip(block, sizes, strict=True)]
    rows = [(number, record, reason or item) for (number, record, item), reason in zip(block, reasons, strict=True)]
    return rows, [0 if reason else size for size, reason in zip(sizes, reasons, strict=True)]
