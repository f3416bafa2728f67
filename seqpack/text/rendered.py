"""Text of which some characters are the data's own and the rest markup."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from seqpack.core.types import Span

Range = tuple[int, int]


class Data(str):
    """A part of a text that the data supplied."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """``data`` are the ranges the data supplied, in order; ``content`` is what truncation may shorten, if anything."""

    text: str
    data: tuple[Range, ...] = ()
    content: Range | None = None

    @classmethod
    def of(cls, text: str) -> Rendered:
        """A message as it is: all of it is data, and may be shortened."""
        whole = (0, len(text))
        return cls(text, (whole,), whole)

    @classmethod
    def join(cls, parts: Iterable[str], *, can_be_cut: bool = False) -> Rendered:
        """The parts one after the other; those that are ``Data`` are data."""
        text, data = "", []
        for part in parts:
            if isinstance(part, Data) and part:
                data.append((len(text), len(text) + len(part)))
            text += part
        return cls(text, tuple(data), (0, len(text)) if can_be_cut else None)

    def __add__(self, other: Rendered) -> Rendered:
        """Both, one after the other; what may be shortened is what may be in the first that has something."""
        moved = other.moved(len(self.text))
        return Rendered(self.text + other.text, self.data + moved.data, self.content or moved.content)

    def moved(self, offset: int) -> Rendered:
        """The ranges in a text where this one begins at ``offset``."""
        content = None if self.content is None else _moved(self.content, offset)
        return Rendered(self.text, tuple(_moved(part, offset) for part in self.data), content)

    def span(self, *, train: bool, turn: int) -> Span:
        data = None if self.data == ((self.content,) if self.content else ()) else self.data
        return Span(self.text, train, turn, self.content, data)


PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@functools.lru_cache(maxsize=1024)
def split_slot(slot: str) -> tuple[str, ...]:
    """Text, name of a placeholder, text, ...: ``"a{{b}}c"`` gives ``("a", "b", "c")``."""
    return tuple(PLACEHOLDER.split(slot))


def fill(slot: str, **values: Rendered) -> Rendered:
    """The slot with each placeholder replaced, once: braces in the values are left alone. KeyError for another name."""
    parts = split_slot(slot)
    if len(parts) == 1:
        return Rendered(slot)
    filled = Rendered(parts[0])
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        filled = filled + values[name]
        filled = Rendered(filled.text + text, filled.data, filled.content)
    return filled


def _moved(part: Range, offset: int) -> Range:
    return part[0] + offset, part[1] + offset
