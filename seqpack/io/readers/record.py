"""One row of a file, and the repair of text that is not Unicode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_HALF_PAIR = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One row. ``value`` is what stands there, which need not be an object. (A tuple, since millions are made.)

    ``line`` counts from 1: the line the row begins on in JSON Lines, text and CSV; the row itself in the other kinds.
    ``num_mended`` counts the characters that were replaced by U+FFFD because they are not Unicode.
    ``element`` is 0, or the number (from 1) of an element of a row that is a list.
    """

    file: Path
    line: int
    value: Any
    num_mended: int = 0
    element: int = 0

    @property
    def key(self) -> str:
        """``file:line``, and the number of the element if it is only that."""
        return f"{self.file}:{self.line}[{self.element}]" if self.element else f"{self.file}:{self.line}"


def elements(record: Record) -> Iterator[Record]:
    """The elements of a row that is a list; any other row, and an empty list, is itself.

    What was mended in the row counts at its first element.
    """
    if not isinstance(record.value, list) or not record.value:
        yield record
        return
    for number, value in enumerate(record.value, 1):
        yield Record(record.file, record.line, value, record.num_mended if number == 1 else 0, number)


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file: bytes ``start:end`` of JSON Lines, row groups ``start:end`` of Parquet; None is the end.

    ``first_line`` is the number of its first line or row. The bytes must begin and end at line borders.
    """

    first_line: int = 1
    start: int = 0
    end: int | None = None


def mended(value: Any) -> tuple[Any, int]:
    r"""A parsed JSON value with U+FFFD for every half of a surrogate pair, and how many there were.

    JSON can spell ``"\ud83d"``, half of a character, and Python reads it; no tokenizer does.
    """
    if isinstance(value, str):
        return _HALF_PAIR.subn("\ufffd", value)
    if isinstance(value, list):
        items = [mended(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if isinstance(value, dict):
        pairs = [(mended(key), mended(item)) for key, item in value.items()]
        return {key: item for (key, _), (item, _) in pairs}, sum(first + second for (_, first), (_, second) in pairs)
    return value, 0
