"""Conversations of one shape have one layout: fixed text around their messages.

Found once for each shape, it renders a sample without making spans, which takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seqpack.core.errors import RejectError
from seqpack.core.types import Dialogue, Message, Role, Sample, Span
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
    """``messages`` are those of a sample of it; ``data`` the slots with one, as (text before, message, text behind)."""

    messages: tuple[Message, ...]
    slots: tuple[Slot, ...]
    data: tuple[tuple[str, int, str], ...]


class Filled(NamedTuple):
    """A rendered sample: its layout, and the texts of its messages."""

    layout: Layout
    contents: Sequence[str]

    @property
    def sample(self) -> Sample:
        """The sample itself."""
        pairs = zip(self.layout.messages, self.contents, strict=True)
        return Sample(tuple(message._replace(content=content) for message, content in pairs))

    @property
    def num_characters(self) -> int:
        return sum(map(len, self.contents))


class Spelled(NamedTuple):
    """A rendered sample of a template, or of a shape, that has no fixed layout."""

    sample: Sample
    spans: list[Span]

    @property
    def num_characters(self) -> int:
        return sum(len(message.content) for message in self.sample.messages)


Rendered = Filled | Spelled


class Renderer:
    """Renders samples for the encoder; RejectError for one that the template cannot use."""

    def __init__(self, template: PromptTemplate, control: ControlText | None) -> None:
        """With ``control``, text of the data that looks like control tokens is kept from becoming them."""
        self._template = template
        self._control = control
        self._layouts: dict[_Shape, Layout | None] = {}
        self._is_fixed = isinstance(template, TextTemplate) and template.thoughts is None

    def render(self, sample: Sample) -> Rendered:
        if not sample.tools:
            roles, contents, trains = zip(*sample.messages, strict=True) if sample.messages else ((), (), ())
            layout = self._layout((roles, trains, tuple(map(bool, contents))))
            if layout is not None and (self._control is None or not self._control.is_in_any(contents)):
                return Filled(layout, contents)
        return Spelled(sample, self.spans(sample))

    def fill(self, dialogues: Sequence[Dialogue | None]) -> list[Filled | None]:
        """Those that ``render`` would give a layout, without an empty text; None for all others."""
        layouts = {
            roles: self._layout((roles, (None,) * len(roles), (True,) * len(roles)))
            for roles in {dialogue[0] for dialogue in dialogues if dialogue is not None}
        }
        is_odd = self._is_odd
        return [
            None
            if dialogue is None or (layout := layouts[dialogue[0]]) is None or is_odd(dialogue[1])
            else Filled(layout, dialogue[1])
            for dialogue in dialogues
        ]

    def _is_odd(self, contents: Sequence[str]) -> bool:
        return "" in contents or (self._control is not None and self._control.is_in_any(contents))

    def _layout(self, shape: _Shape) -> Layout | None:
        if not self._is_fixed:
            return None
        if shape not in self._layouts:
            messages = tuple(
                Message(role, "x" if has_text else "", train) for role, train, has_text in zip(*shape, strict=True)
            )
            self._layouts[shape] = find_layout(self._template, Sample(messages), self._control)
        return self._layouts[shape]

    def spans(self, sample: Sample) -> list[Span]:
        """The same as spans, which say which characters are the data's own; checked to be Unicode."""
        return self.guarded(self._template.spans(sample))

    def guarded(self, spans: Iterable[Span]) -> list[Span]:
        """The spans with text of the data that looks like control tokens kept as text, if that is asked for."""
        guarded = list(spans) if self._control is None else self._control.guard(spans)
        check_unicode(span.text for span in guarded)
        return guarded


_Shape = tuple[tuple[Role, ...], tuple[bool | None, ...], tuple[bool, ...]]
"""Of each message: who speaks, whether to train on it, whether it says anything."""

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
    return Layout(tuple(marked), tuple(slots), data)


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
