"""Spans to ids and labels, many samples per call of the tokenizer, and cutting a sample that is too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import IGNORE_INDEX, Span, TokenizedBatch, TokenizedSample, running_sum
from seqpack.text.tokenizer import FlatIds, Tokenizer


class FlatEncoder(Protocol):
    """An engine, or a ``Tokenizer``."""

    def encode_flat(self, texts: Sequence[str]) -> FlatIds: ...


def encode(engine: FlatEncoder, samples: Sequence[Sequence[Span]]) -> TokenizedBatch:
    """Tokenize rendered samples. Each span is encoded on its own, so that no token reaches over its border."""
    spans = list(chain.from_iterable(samples))
    input_ids, offsets = engine.encode_flat([span.text for span in spans])
    is_trained = np.fromiter((span.train for span in spans), np.bool_, len(spans))
    labels = np.where(np.repeat(is_trained, np.diff(offsets)), input_ids, np.int32(IGNORE_INDEX))
    ends = offsets[running_sum(np.fromiter(map(len, samples), np.int64, len(samples)))]
    return TokenizedBatch(input_ids, labels, np.diff(ends))


def truncate(tokenizer: Tokenizer, spans: Sequence[Span], max_length: int) -> TokenizedSample | None:
    """The sample cut to at most ``max_length`` tokens, or None if nothing worth training on would be left.

    Whole exchanges are removed from the end. If the first one alone is too long, its message texts are shortened (the
    user's first, then the reply's, in proportion when both are long; the system text last), keeping their beginnings:
    headers, separators and the token that ends the reply always survive.
    """
    pieces = [_Piece.of(span, ids, offsets) for span, ids, offsets in _encode_with_offsets(tokenizer, spans)]
    turns = {piece.span.turn for piece in pieces}
    for last in sorted(turns, reverse=True):
        kept = [piece for piece in pieces if piece.span.turn <= last]
        if sum(map(len, kept)) <= max_length:
            return _with_target(kept)
    first = [piece for piece in pieces if piece.span.turn == min(turns)]
    shortened = _shorten(first, max_length)
    return None if shortened is None else _with_target(shortened)


def with_end(sample: TokenizedSample, end_token_id: int) -> TokenizedSample:
    """The sample with the end token behind it, trained on; the sample itself if that is how it ends already."""
    if len(sample) and sample.input_ids[-1] == end_token_id:
        return sample
    end = np.array([end_token_id], np.int32)
    return TokenizedSample(np.concatenate([sample.input_ids, end]), np.concatenate([sample.labels, end]))


def with_ends(batch: TokenizedBatch, end_token_id: int) -> tuple[TokenizedBatch, int]:
    """``with_end`` for every sample with something to train on, and how many of those ended that way already."""
    ends = batch.offsets[1:]
    is_trained = batch.num_trained > 0
    is_ended = np.zeros(len(batch), np.bool_)
    is_ended[is_trained] = batch.input_ids[ends[is_trained] - 1] == end_token_id
    is_open = is_trained & ~is_ended
    return (
        TokenizedBatch(
            np.insert(batch.input_ids, ends[is_open], end_token_id),
            np.insert(batch.labels, ends[is_open], end_token_id),
            batch.lengths + is_open,
        ),
        int(is_ended.sum()),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A span's ids, of which ``content`` are the data's own and may be cut."""

    span: Span
    head: list[int]
    content: list[int]
    tail: list[int]

    def __len__(self) -> int:
        return len(self.head) + len(self.content) + len(self.tail)

    @classmethod
    def of(cls, span: Span, ids: list[int], offsets: list[tuple[int, int]]) -> _Piece:
        start, end = span.content or (0, 0)
        inside = [index for index, (left, right) in enumerate(offsets) if start <= left and right <= end and left < end]
        if not inside:
            return cls(span, ids, [], [])
        first, last = inside[0], inside[-1] + 1
        return cls(span, ids[:first], ids[first:last], ids[last:])

    def cut(self, length: int) -> _Piece:
        return _Piece(self.span, self.head, self.content[:length], self.tail)

    @property
    def ids(self) -> list[int]:
        return self.head + self.content + self.tail


def _shorten(pieces: list[_Piece], max_length: int) -> list[_Piece] | None:
    prompt = sum(len(piece.content) for piece in pieces if not piece.span.train)
    reply = sum(len(piece.content) for piece in pieces if piece.span.train)
    budget = max_length - (sum(map(len, pieces)) - prompt - reply)
    if budget < 2:
        return None
    room_for_prompt, room_for_reply = _share(budget, prompt, reply)
    shortened: list[_Piece] = []
    for piece in pieces:  # the system text stands first and so takes its room before the user's
        room = room_for_reply if piece.span.train else room_for_prompt
        cut = piece.cut(room)
        if piece.span.train:
            room_for_reply -= len(cut.content)
        else:
            room_for_prompt -= len(cut.content)
        shortened.append(cut)
    return shortened


def _share(budget: int, prompt: int, reply: int) -> tuple[int, int]:
    """Room for prompt and reply: whichever needs less than half is kept whole, two long ones share in proportion."""
    if 2 * reply < budget:
        return budget - reply, reply
    if 2 * prompt < budget:
        return prompt, budget - prompt
    room_for_reply = max(budget * reply // (prompt + reply), 1)
    return budget - room_for_reply, room_for_reply


def _with_target(pieces: list[_Piece]) -> TokenizedSample | None:
    sample = _join((piece.span.train, piece.ids) for piece in pieces)
    return sample if sample.num_trained else None


def _join(spans: Iterable[tuple[bool, list[int]]]) -> TokenizedSample:
    input_ids: list[int] = []
    labels: list[int] = []
    for train, ids in spans:
        input_ids += ids
        labels += ids if train else [IGNORE_INDEX] * len(ids)
    return TokenizedSample(_int32(input_ids), _int32(labels))


def _int32(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _encode_with_offsets(
    tokenizer: Tokenizer, spans: Sequence[Span]
) -> list[tuple[Span, list[int], list[tuple[int, int]]]]:
    encodings = tokenizer.encode_with_offsets([span.text for span in spans])
    return [(span, encoding.ids, encoding.offsets) for span, encoding in zip(spans, encodings, strict=True)]
