"""Text of the data that looks like control tokens stays text: it is encoded as if the tokenizer had no such tokens.

Everything the tokenizer calls an added token counts, also those that it does not call special, like ``<tool_call>``:
both kinds are found in a text before it is split, and both mean something to the model that whoever wrote the text
must not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from tokenizers import Tokenizer as FastTokenizer

from seqpack.core.types import Span
from seqpack.text.tokenizer import TOKENIZER_FILE, Tokenizer

Offsets = list[tuple[int, int]]


class ControlText:
    """Finds added tokens in the data, and encodes such text without them.

    The second tokenizer this takes is only made when the first such text comes up: most data have none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._directory = tokenizer.directory
        control = {token: token_id for token, token_id in tokenizer.added_tokens.items() if _is_control(token)}
        self._ids = frozenset(control.values())
        # longest first: of two tokens that begin alike, the regular expression takes the one named first
        tokens = sorted(control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._beginnings = tuple({token[0] for token in tokens})
        self._plain: FastTokenizer | None = None

    def guard(self, spans: Iterable[Span]) -> list[Span]:
        """The same spans; one whose data contain an added token is divided, its data marked ``plain``.

        A span is divided at the template's own tokens next to the data and nowhere else, so that what was merged across
        the border between header and message still is.
        """
        guarded: list[Span] = []
        for span in spans:
            if self.is_in_any([span.text[start:end] for start, end in span.data_ranges]):
                guarded += self._divide(span)
            else:
                guarded.append(span)
        return guarded

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, none of them an added token's."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """As ``encode``, with the character range of each token."""
        encoding = self._tokenizer().encode(text, add_special_tokens=False)
        if self._ids.isdisjoint(encoding.ids):
            return encoding.ids, encoding.offsets
        # The model itself may know the text as one piece (Unigram, ignore_merges): break every such text in two.
        ids: list[int] = []
        offsets: Offsets = []
        for start, end in self._broken(text):
            part = self._tokenizer().encode(text[start:end], add_special_tokens=False)
            ids += part.ids
            offsets += [(start + left, start + right) for left, right in part.offsets]
        return ids, offsets

    def is_in_any(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts holds an added token."""
        pattern = self._pattern
        if pattern is None:
            return False
        for beginning in self._beginnings:
            for text in texts:
                # Looking for a few characters first costs a tenth of what the regular expression does.
                if beginning in text and pattern.search(text) is not None:
                    return True
        return False

    def _divide(self, span: Span) -> Iterator[Span]:
        done = 0
        for start, end in self._stretches(span):
            if start > done:
                yield span._replace(text=span.text[done:start], content=None, data=())
            content = _overlap(span.content, start, end)
            yield span._replace(text=span.text[start:end], content=content, data=((0, end - start),), plain=True)
            done = end
        if done < len(span.text):
            yield span._replace(text=span.text[done:], content=None, data=())

    def _stretches(self, span: Span) -> list[tuple[int, int]]:
        """Ranges of the text that hold data, each reaching to the template's own added tokens around it."""
        assert self._pattern is not None
        markup = [
            match.span()
            for gap in _gaps(span.data_ranges, len(span.text))
            for match in self._pattern.finditer(span.text, *gap)
        ]
        edges = [0, *(edge for token in markup for edge in token), len(span.text)]
        between = list(zip(edges[::2], edges[1::2], strict=True))
        return [(start, end) for start, end in between if start < end and _holds(span.data_ranges, start, end)]

    def _broken(self, text: str) -> Iterator[tuple[int, int]]:
        assert self._pattern is not None
        return pairwise([0, *(match.start() + 1 for match in self._pattern.finditer(text)), len(text)])

    def _tokenizer(self) -> FastTokenizer:
        if self._plain is None:
            value = json.loads((self._directory / TOKENIZER_FILE).read_bytes())
            kept = [token for token in value.get("added_tokens") or () if not _is_control(token["content"])]
            # without the post-processor, which would name tokens that are gone
            value |= {"added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
            self._plain = FastTokenizer.from_str(json.dumps(value))
        return self._plain


def _is_control(token: str) -> bool:
    """Some vocabularies hold runs of blanks as added tokens (Gemma): they say nothing, and ordinary text needs them."""
    return bool(token.strip(" \t\r\n▁"))


def _gaps(ranges: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """What lies between ``ranges`` (sorted) in a text of that length: the template's own characters."""
    edges = [0, *(edge for part in ranges for edge in part), length]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _holds(ranges: Iterable[tuple[int, int]], start: int, end: int) -> bool:
    return any(max(start, left) < min(end, right) for left, right in ranges)


def _overlap(content: tuple[int, int] | None, start: int, end: int) -> tuple[int, int] | None:
    if content is None:
        return None
    left, right = max(content[0], start), min(content[1], end)
    return (left - start, right - start) if left < right else None
