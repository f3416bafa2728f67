"""Conversations of one shape have one layout: fixed text around their messages.

Found once for each shape, it renders a sample without making spans, which takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Sample, Span
from seqpack.hooks.specs import PromptTemplate
from seqpack.text.plain import ControlText
from seqpack.text.template import TextTemplate


class Slot(NamedTuple):
    """A span of all samples of a layout: fixed ``text``, or message number ``message`` between ``text`` and ``tail``.

    ``end`` is the text of an end token left out just before, which the first token here is labelled with.
    """

    text: str
    message: int | None = None
    tail: str = ""
    train: bool = False
    end: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """``data`` are the slots with a message, as (text before, message, text behind)."""

    slots: tuple[Slot, ...]
    data: tuple[tuple[str, int, str], ...]


class Filled(NamedTuple):
    """A rendered sample: its layout, and the texts of its messages."""

    layout: Layout
    contents: Sequence[str]


Rendered = Filled | list[Span]
"""What the encoder takes; a list of spans where the template, or the sample, is not of a fixed layout."""


class Renderer:
    """Renders samples for the encoder; RejectError for one that the template cannot use."""

    def __init__(self, template: PromptTemplate, control: ControlText | None) -> None:
        """With ``control``, text of the data that looks like control tokens is kept from becoming them."""
        self._template = template
        self._control = control
        self._layouts: dict[Any, Layout | None] = {}
        self._is_fixed = isinstance(template, TextTemplate) and template.thoughts is None

    def render(self, sample: Sample) -> Rendered:
        if self._is_fixed and not sample.tools:
            roles, contents, trains = zip(*sample.messages, strict=True) if sample.messages else ((), (), ())
            shape = (roles, trains, "" in contents and tuple(map(bool, contents)))
            layout = self._layouts.get(shape, _UNKNOWN)
            if layout is _UNKNOWN:
                layout = self._layouts[shape] = find_layout(self._template, sample, self._control)
            if layout is not None and (self._control is None or not self._control.is_in_any(contents)):
                return Filled(layout, contents)
        return self.spans(sample)

    def spans(self, sample: Sample) -> list[Span]:
        """The same as spans, which say which characters are the data's own; checked to be Unicode."""
        return self.guarded(self._template.spans(sample))

    def guarded(self, spans: Iterable[Span]) -> list[Span]:
        """The spans with text of the data that looks like control tokens kept as text, if that is asked for."""
        guarded = list(spans) if self._control is None else self._control.guard(spans)
        check_unicode(span.text for span in guarded)
        return guarded


_UNKNOWN: Any = object()
_MARK = "\x02"


def find_layout(template: PromptTemplate, sample: Sample, control: ControlText | None = None) -> Layout | None:
    """The layout of all samples with the roles, ``train`` flags and empty messages of this one; None if it has none.

    It is what the template makes of marked texts, so that there is one set of rules.
    """
    if any(message.role == "function" for message in sample.messages):
        return None  # its text is taken apart
    marks = [f"{_MARK}{number}{_MARK}" if message.content else "" for number, message in enumerate(sample.messages)]
    marked = [Message(message.role, mark, message.train) for message, mark in zip(sample.messages, marks, strict=True)]
    try:
        spans = list(template.spans(Sample(tuple(marked))))
    except RejectError:
        return None  # its reason may name the text
    slots: list[Slot] = []
    end = ""
    for index, span in enumerate(spans):
        if span.elided and index < len(spans) - 1:
            end = span.text if span.train else ""
            continue
        slot = _slot(span, marks, end)
        # a default system text counts as data, and may hold control tokens as well
        if slot is None or (slot.message is None and control and control.is_in_any(_data(span))):
            return None
        slots.append(slot)
        end = ""
    data = tuple((slot.text, slot.message, slot.tail) for slot in slots if slot.message is not None)
    return Layout(tuple(slots), data)


def _slot(span: Span, marks: list[str], end: str) -> Slot | None:
    if _MARK not in span.text:
        return Slot(span.text, train=span.train, end=end)
    data, content = _data(span), span.content
    if content is None or data != [span.text[content[0] : content[1]]] or data[0] not in marks:
        return None  # text of two messages, or a message that was changed
    return Slot(span.text[: content[0]], marks.index(data[0]), span.text[content[1] :], span.train, end)


def _data(span: Span) -> list[str]:
    return [span.text[start:stop] for start, stop in span.data_ranges if start < stop]


def check_unicode(texts: Iterable[str]) -> None:
    """RejectError for half a surrogate pair, at which the tokenizer would stop.

    Readers mend it in the rows themselves, but a handler may unpack JSON inside a text, such as a tool's arguments.
    """
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise RejectError("text with half a surrogate pair, which is not Unicode") from None
