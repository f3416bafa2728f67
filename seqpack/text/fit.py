"""Cutting a sample that is too long inside its message texts, at borders of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqpack.core.types import Span, TokenizedSample
from seqpack.text.encoder import join_spans
from seqpack.text.plain import ControlText, Offsets
from seqpack.text.tokenizer import Tokenizer


def truncate(
    tokenizer: Tokenizer, spans: Sequence[Span], max_length: int, control: ControlText | None = None
) -> TokenizedSample | None:
    """The sample cut to at most ``max_length`` tokens, or None if nothing worth training on would be left.

    Whole exchanges are removed from the end. If the first one alone is too long, its message texts are shortened (the
    user's first, then the reply's, in proportion when both are long), keeping their beginnings: the system text is only
    cut if it leaves no room for them, and headers, separators and the token that ends the reply always survive. A text
    is cut between two characters, so that a little less than ``max_length`` may be left; of a reply that has a text,
    something is left.
    """
    pieces = encode_pieces(tokenizer, spans, control)
    turns = {piece.span.turn for piece in pieces}
    for last in sorted(turns, reverse=True):
        kept = [piece for piece in pieces if piece.span.turn <= last]
        if _length(kept) <= max_length:
            return _with_target(kept)
    first = [piece for piece in pieces if piece.span.turn == min(turns)]
    shortened = _shorten(first, max_length)
    return None if shortened is None else _with_target(shortened)


@dataclass(frozen=True, slots=True)
class Piece:
    """A span's ids, of which ``content`` are the data's own and may be cut.

    ``borders`` are the numbers of content tokens, rising and from 0, after which no character is cut in two.
    """

    span: Span
    head: list[int]
    content: list[int]
    tail: list[int]
    borders: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return len(self.head) + len(self.content) + len(self.tail)

    @classmethod
    def of(cls, span: Span, ids: list[int], offsets: Offsets) -> Piece:
        start, end = span.content or (0, 0)
        inside = [index for index, (left, right) in enumerate(offsets) if start <= left and right <= end and left < end]
        if not inside:
            return cls(span, ids, [], [])
        first, last = inside[0], inside[-1] + 1
        return cls(span, ids[:first], ids[first:last], ids[last:], _borders(offsets[first:last]))

    def cut(self, length: int) -> Piece:
        """At most the first ``length`` tokens of the content, markup whole."""
        if length >= len(self.content):
            return self
        border = max(place for place in self.borders if place <= length)
        borders = tuple(place for place in self.borders if place <= border)
        return Piece(self.span, self.head, self.content[:border], self.tail, borders)

    @property
    def ids(self) -> list[int]:
        return self.head + self.content + self.tail


def encode_pieces(tokenizer: Tokenizer, spans: Sequence[Span], control: ControlText | None) -> list[Piece]:
    """Each span encoded on its own, with the place of its content."""
    return [Piece.of(*encoded) for encoded in _encode_with_offsets(tokenizer, spans, control)]


def _borders(offsets: Offsets) -> tuple[int, ...]:
    """Where one token ends before the next one begins.

    The tokens of one character name the same place: all of it (byte-level BPE), or none but the last (byte fallback).
    """
    places = [0]
    for number, (left, right) in enumerate(offsets, 1):
        is_last = number == len(offsets)
        if is_last or (left < right <= offsets[number][0]):
            places.append(number)
    return tuple(places)


def _shorten(pieces: list[Piece], max_length: int) -> list[Piece] | None:
    replies = _replies(pieces)
    prompts = [number for number, piece in enumerate(pieces) if piece.span.content and number not in replies]
    reply = sum(len(pieces[number].content) for number in replies)
    budget = max_length - (_length(pieces) - reply - sum(len(pieces[number].content) for number in prompts))
    above = sum(len(pieces[number].content) for number in prompts[:-1])
    if budget - above >= 2:  # the system text stays whole
        budget -= above
        prompts = prompts[-1:]
    if budget < 2:
        return None
    room_for_prompt, room_for_reply = _share(budget, sum(len(pieces[number].content) for number in prompts), reply)
    shortened: list[Piece] = []
    for number, piece in enumerate(pieces):  # if it must be cut too, the system text takes its room before the user's
        if number in replies:
            piece = piece.cut(room_for_reply)
            room_for_reply -= len(piece.content)
        elif number in prompts:
            piece = piece.cut(room_for_prompt)
            room_for_prompt -= len(piece.content)
        shortened.append(piece)
    is_silent = reply > 0 and not any(shortened[number].content for number in replies)
    return None if is_silent else shortened


def _replies(pieces: list[Piece]) -> set[int]:
    """Numbers of the pieces that are the reply: those trained on, but only the last one where all texts are."""
    texts = [number for number, piece in enumerate(pieces) if piece.content]
    trained = {number for number in texts if pieces[number].span.train}
    return {texts[-1]} if trained and len(trained) == len(texts) else trained


def _share(budget: int, prompt: int, reply: int) -> tuple[int, int]:
    """Room for prompt and reply: whichever needs less than half is kept whole, two long ones share in proportion."""
    if 2 * reply < budget:
        return budget - reply, reply
    if 2 * prompt < budget:
        return prompt, budget - prompt
    room_for_reply = max(budget * reply // (prompt + reply), 1)
    return budget - room_for_reply, room_for_reply


def _length(pieces: list[Piece]) -> int:
    """Tokens of a sample made of these pieces, of which an elided one only counts at the end."""
    return sum(len(piece) for index, piece in enumerate(pieces) if not piece.span.elided or index == len(pieces) - 1)


def _with_target(pieces: list[Piece]) -> TokenizedSample | None:
    sample = join_spans([(piece.span, piece.ids) for piece in pieces])
    return sample if sample.num_trained else None


def _encode_with_offsets(
    tokenizer: Tokenizer, spans: Sequence[Span], control: ControlText | None
) -> Iterator[tuple[Span, list[int], Offsets]]:
    encodings = tokenizer.encode_with_offsets([span.text for span in spans])
    for span, encoding in zip(spans, encodings, strict=True):
        if span.plain:
            assert control is not None
            yield (span, *control.encode_with_offsets(span.text))
        else:
            yield span, encoding.ids, encoding.offsets
