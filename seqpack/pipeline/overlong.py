"""What is left of a sample that is longer than ``--seq-length``, or has nothing to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqpack.core.ledger import Ledger
from seqpack.core.types import Sample, Span, TokenizedSample
from seqpack.options.data import LengthOptions
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.oversize import too_long
from seqpack.text.division import NOTHING_TRAINED, Divider
from seqpack.text.encoder import with_end
from seqpack.text.fit import truncate
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer

LONGER = "longer than --seq-length"
NO_ROOM = "no room for a trained token"


@dataclass(frozen=True, slots=True)
class Fitter:
    """Does what ``--on-overlong`` says, and counts it in the ledger; ``end_token_id`` is that of ``--append-eod``."""

    render: Callable[[Sample], list[Span]]
    tokenizer: Tokenizer
    control: ControlText
    length: LengthOptions
    end_token_id: int | None
    ledger: Ledger
    lost: Callable[[Loss], None]

    def fit(self, key: str, sample: Sample, tokens: TokenizedSample) -> Sequence[TokenizedSample]:
        """The samples to keep of one that cannot be kept as it is; ``tokens`` is all of it.

        DataError SP108 for one that is too long, under ``--on-overlong error``.
        """
        if not tokens.num_trained:
            return self._drop(key, NOTHING_TRAINED, len(tokens))
        if self.length.on_overlong == "error":
            raise too_long(f"{key}: {len(tokens):,} tokens", self._limit)
        if self.length.on_overlong == "split":
            return self._split(key, sample, len(tokens))
        if self.length.on_overlong == "drop":
            return self._drop(key, LONGER, len(tokens))
        spans = self.render(sample)
        shortened = self._truncate(spans)
        if shortened is None and any(span.train and span.turn for span in spans):
            shortened = self._ending(sample)
        if shortened is None:
            return self._drop(key, NO_ROOM, len(tokens))
        self.ledger.keep(len(shortened), shortened.num_trained, original=len(tokens))
        self.lost(Loss(key, "truncated", LONGER, len(tokens) - len(shortened)))
        return [shortened]

    @property
    def _limit(self) -> int:
        assert self.length.seq_length is not None
        return self.length.seq_length

    def _drop(self, key: str, reason: str, num_tokens: int) -> Sequence[TokenizedSample]:
        self.ledger.drop(reason, num_tokens)
        self.lost(Loss(key, "dropped", reason, num_tokens))
        return ()

    def _divider(self) -> Divider:
        return Divider(self.render, self.tokenizer, self.control, self._limit, self.end_token_id, self.length.split_sft)

    def _split(self, key: str, sample: Sample, original: int) -> Sequence[TokenizedSample]:
        division = self._divider().divide(sample)
        if not division.parts:
            return self._drop(key, max(division.lost, key=lambda reason: division.lost[reason]), original)
        self.ledger.split(
            [len(part) for part in division.parts],
            sum(part.num_trained for part in division.parts),
            original=original,
            repeated=division.repeated,
            lost=sum(division.lost.values()),
        )
        self.lost(Loss(key, "split", LONGER, division.repeated))
        for reason, num_tokens in division.lost.items():
            self.lost(Loss(key, "truncated", reason, num_tokens))
        return division.parts

    def _truncate(self, spans: Sequence[Span]) -> TokenizedSample | None:
        """The sample cut to the length, the end token of ``--append-eod`` among its tokens."""
        shortened = truncate(self.tokenizer, spans, self._limit, self.control)
        if shortened is None or self.end_token_id is None:
            return shortened
        if len(with_end(shortened, self.end_token_id)) > self._limit:
            shortened = truncate(self.tokenizer, spans, self._limit - 1, self.control)
        return None if shortened is None else with_end(shortened, self.end_token_id)

    def _ending(self, sample: Sample) -> TokenizedSample | None:
        """As many of the last turns as fit: what is trained on may stand only there (``--train-on last``)."""
        divider = self._divider()
        if parts := divider.divide(sample).parts:
            return parts[-1]
        return self._truncate(self.render(divider.last_exchange(sample)))
