"""``--on-overlong split``: a conversation that is too long becomes several, each a whole sample of its own.

Parts are rendered by the template like any other sample, so that each opens with the system message and the tools, and
reads as the model will see it. The price: the beginnings of a long conversation are all rendered and encoded once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import RejectError
from seqpack.core.types import IGNORE_INDEX, Message, Sample, Span, TokenizedSample
from seqpack.text.encoder import encode, with_end
from seqpack.text.fit import Piece, encode_pieces
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer

TOO_LONG = "one exchange longer than --seq-length"
NOTHING_TRAINED = "nothing to train on"
MARKUP = "markup between the turns of a conversation"
PROMPT = "prompt of a reply that is split"
REFUSED = "the template refuses its parts"
_REPLIES = ("assistant", "function")


@dataclass(slots=True)
class Division:
    """What became of a conversation; ``parts`` are in its order.

    ``repeated`` counts tokens of the parts beyond those their turns have in the whole: system message, tools and what
    else opens a sample, and prompts before each part of a reply. ``lost`` counts tokens of the whole that are in no
    part, by reason. Always: tokens of the parts + lost = tokens of the whole + repeated.
    """

    parts: list[TokenizedSample] = field(default_factory=list)
    repeated: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, reason: str, num_tokens: int) -> None:
        """Negative where the whole is shorter with these turns, of whose thoughts a template then removes some."""
        if num_tokens > 0:
            self.lost[reason] = self.lost.get(reason, 0) + num_tokens
        else:
            self.repeated -= num_tokens

    def account(self, num_tokens: int, num_before: int) -> None:
        """A part of ``num_tokens``, whose turns have ``num_before`` in the whole."""
        self.repeated += max(num_tokens - num_before, 0)
        self.lose(MARKUP, max(num_before - num_tokens, 0))


@dataclass(frozen=True, slots=True)
class Divider:
    """Divides conversations of more than ``max_length`` tokens.

    ``render`` is the template, ``end_token_id`` that of ``--append-eod``, or None. ``cut_replies`` allows parts of a
    reply (``--split-sft``): each stands after its prompt, of which as much is kept as fits into half the length, and
    only the last one has the token that ends the reply.
    """

    render: Callable[[Sample], list[Span]]
    tokenizer: Tokenizer
    control: ControlText
    max_length: int
    end_token_id: int | None = None
    cut_replies: bool = False

    def divide(self, sample: Sample) -> Division:
        """As many parts as are needed, cut where the user speaks and filled from the end: the last reply keeps most."""
        head, exchanges = _exchanges(sample)
        division = Division()
        try:
            lengths = [0, *(len(self._encode(_join(sample, head, exchanges[: n + 1]))) for n in range(len(exchanges)))]
        except RejectError:
            division.lose(REFUSED, len(self._encode(sample)))
            return division
        end = len(exchanges)
        while end:
            first, tokens = self._longest(sample, head, exchanges, lengths, end)
            before = lengths[end] - lengths[first]
            if tokens is None:
                self._too_long(_join(sample, head, exchanges[first:end]), before, division)
            elif not tokens.num_trained:
                division.lose(NOTHING_TRAINED, before)
            else:
                division.account(len(tokens), before)
                division.parts.append(tokens)
            end = first
        division.parts.reverse()
        return division

    def last_exchange(self, sample: Sample) -> Sample:
        """The system message, and the last question with all that follows it."""
        head, exchanges = _exchanges(sample)
        return _join(sample, head, exchanges[-1:])

    def _longest(
        self,
        sample: Sample,
        head: Sequence[Message],
        exchanges: Sequence[Sequence[Message]],
        lengths: Sequence[int],
        end: int,
    ) -> tuple[int, TokenizedSample | None]:
        """The first exchange of the longest part that ends before ``end``, and the part; None if not even one fits."""

        def part(first: int) -> TokenizedSample:
            return self._encode(_join(sample, head, exchanges[first:end]))

        first = end - 1
        try:
            tokens = part(first)
        except RejectError:
            return first, None
        if len(tokens) > self.max_length:
            return first, None
        length = len(tokens)
        while first and (length := self._guess(length, lengths, first - 1, end)) <= self.max_length:
            first -= 1
        while first < end - 1:
            try:
                longer = part(first)
                if len(longer) <= self.max_length:
                    return first, longer
            except RejectError:  # another beginning may do
                pass
            first += 1
        return first, tokens

    def _guess(self, length: int, lengths: Sequence[int], first: int, end: int) -> int:
        """Length of the part from ``first`` on, if that from the next exchange on has ``length``."""
        return lengths[end] if first == 0 else length + lengths[first + 1] - lengths[first]

    def _too_long(self, part: Sample, before: int, division: Division) -> None:
        """One exchange that does not fit."""
        pieces = self._fragments(part) if self.cut_replies else None
        if pieces is None:
            division.lose(TOO_LONG, before)
            return
        fragments, whole, lost = pieces
        division.account(whole, before)
        division.lose(PROMPT, lost)
        division.repeated += sum(map(len, fragments)) - (whole - lost)
        division.parts += reversed(fragments)

    def _fragments(self, part: Sample) -> tuple[list[TokenizedSample], int, int] | None:
        """Parts of the one reply of an exchange, its tokens, and how many of its prompt are in none of the parts.

        None if it has several replies, such as calls of tools, or none with a text, or no room for even a token.
        """
        if sum(message.role in _REPLIES for message in part.messages) != 1:
            return None
        try:
            pieces = encode_pieces(self.tokenizer, self.render(part), self.control)
        except RejectError:
            return None
        replies = [number for number, piece in enumerate(pieces) if piece.content and piece.span.train]
        if not replies:
            return None
        first = replies[-1]
        context, lost = _shortened(pieces[:first], pieces[first].head, self.max_length // 2)
        reply = pieces[first]
        tail = [token for piece in (replace(reply, head=[], content=[]), *pieces[first + 1 :]) for token in piece.ids]
        whole = sum(map(len, pieces))
        if self.end_token_id is not None and (tail or reply.content)[-1] != self.end_token_id:
            tail, whole = [*tail, self.end_token_id], whole + 1
        places = _places(reply, self.max_length - len(context), len(tail))
        if places is None:
            return None
        ends: list[list[int]] = [*([] for _ in places[2:]), tail]
        texts = [reply.content[start:end] + last for (start, end), last in zip(pairwise(places), ends, strict=True)]
        labels = [context.labels, *(np.full(len(context), IGNORE_INDEX, np.int32) for _ in texts[1:])]
        fragments = [_after(context.input_ids, known, text) for known, text in zip(labels, texts, strict=True)]
        return (fragments, whole, lost) if all(fragment.num_trained for fragment in fragments) else None

    def _encode(self, sample: Sample) -> TokenizedSample:
        tokens = encode(self.tokenizer, [self.render(sample)], self.control)[0]
        return with_end(tokens, self.end_token_id) if self.end_token_id is not None and tokens.num_trained else tokens


def _exchanges(sample: Sample) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """The system message, if there is one, and the messages from each question of the user to the next."""
    messages = sample.messages
    start = int(bool(messages) and messages[0].role == "system")
    borders = [
        number
        for number in range(start + 1, len(messages))
        if messages[number].role == "user" and messages[number - 1].role in _REPLIES
    ]
    places = [start, *borders, len(messages)]
    return messages[:start], [messages[first:last] for first, last in pairwise(places)]


def _join(sample: Sample, head: Sequence[Message], exchanges: Sequence[Sequence[Message]]) -> Sample:
    messages = (*head, *(message for exchange in exchanges for message in exchange))
    return Sample(messages, sample.key, sample.tools)


def _shortened(pieces: Sequence[Piece], header: list[int], room: int) -> tuple[TokenizedSample, int]:
    """What stands before a reply, its texts cut so that it takes ``room`` if it can, and how many tokens that costs."""
    excess = max(sum(map(len, pieces)) + len(header) - room, 0)
    kept: list[Piece] = []
    lost = 0
    for piece in reversed(pieces):  # the question is cut before the system message
        short = piece.cut(max(len(piece.content) - (excess - lost), 0)) if lost < excess else piece
        lost += len(piece) - len(short)
        kept.append(short)
    kept.reverse()
    ids = [token for piece in kept for token in piece.ids]
    labels = [label for piece in kept for label in (piece.ids if piece.span.train else [IGNORE_INDEX] * len(piece))]
    # the header is trained on with the reply, as where the whole reply stands
    return TokenizedSample(np.array(ids + header, np.int32), np.array(labels + header, np.int32)), lost


def _places(reply: Piece, room: int, tail: int) -> list[int] | None:
    """Where to cut the content, 0 and its end included, into parts of at most ``room``, the last one with its tail."""
    places = [0]
    size = len(reply.content)
    while size - places[-1] + tail > room:
        # the last part needs a token of the text, so that it is not only the end of a reply
        place = reply.borders[bisect_right(reply.borders, min(places[-1] + room, size - 1)) - 1]
        if place <= places[-1]:
            return None
        places.append(place)
    return [*places, size]


def _after(context: NDArray[np.int32], known: NDArray[np.int32], text: list[int]) -> TokenizedSample:
    ids = np.array(text, np.int32)
    return TokenizedSample(np.concatenate([context, ids]), np.concatenate([known, ids]))
