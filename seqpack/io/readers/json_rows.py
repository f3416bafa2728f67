"""JSON Lines, and JSON arrays read element by element."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from seqpack.core.errors import DataError
from seqpack.core.types import running_sum
from seqpack.io.readers import streams
from seqpack.io.readers.record import Part, Record, mended
from seqpack.io.readers.streams import decode_line, line_blocks, text_chunks

SPACE = " \t\r\n"

EXACT_INTEGERS = 2.0**53
"""Integers from here on may not be what a float says they are."""

NEAR_END = 16
"""JSON's longest literals and escapes are shorter: an error this near to the end may only lack what comes next."""


def read_json_lines(
    path: Path, part: Part | None = None, *, wanted: Callable[[int], bool] | None = None
) -> Iterator[Record]:
    """One value per line, of the bytes ``part`` if it is given; blank lines are passed over.

    ``wanted`` is asked about the number of each line that is not blank, and those it declines are not parsed.
    """
    return chain.from_iterable(read_json_blocks(path, part, wanted=wanted))


def read_json_blocks(
    path: Path, part: Part | None = None, *, wanted: Callable[[int], bool] | None = None
) -> Iterator[list[Record]]:
    """As ``read_json_lines``, as many records at a time as one read of the file brings."""
    for first, lines in line_blocks(path, part):
        numbers: Sequence[int] = range(first, first + len(lines))
        if wanted is not None:
            pairs = zip(numbers, lines, strict=True)
            asked = [(number, line) for number, line in pairs if not line.isspace() and wanted(number)]
            numbers, lines = [number for number, _ in asked], [line for _, line in asked]
        values = _certain_values(lines)
        if None not in values:
            yield list(map(Record, repeat(path), numbers, values))
            continue
        block: list[Record] = []
        try:
            for number, line, value in zip(numbers, lines, values, strict=True):
                if value is not None:
                    block.append(Record(path, number, value))
                else:
                    block += _read_line(path, number, decode_line(path, number, line))
        finally:
            yield block  # also the rows before one that cannot be read


def _read_line(path: Path, number: int, line: str) -> Iterator[Record]:
    """The value of a line by the slow parser, which sees everything and says what is wrong."""
    if not line or line.isspace():
        return
    try:
        # without its end, after which JSON's columns would count from 1 again
        value, num_mended = _mend(_DECODER.decode(line.rstrip()), line)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{path}:{number}", error, help=_line_help(line, number)) from error
    yield Record(path, number, value, num_mended)


def _certain_values(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """The objects that the lines are, by the fast parser; None where it may have lost something, or refuses the line.

    It keeps one of two equal keys, and rounds long integers. Every key is followed by ``":``, or by blanks and a colon,
    and inside of texts no quote stands without a backslash. So as many ``":`` as keys, and no blank before a colon,
    mean that no key came twice.
    """
    try:
        values = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:  # a blank line, half a surrogate pair, NaN, or indeed not JSON
        values = list(map(_loads, lines))
    are_objects = {dict}.issuperset(map(type, values))
    are_simple = are_objects and _SIMPLE.issuperset(map(type, chain.from_iterable(map(dict.values, values))))
    expected = list(map(len if are_simple else _num_known_keys, values))
    found = _num_marks(lines)
    if are_objects and found == expected:
        return values
    return [
        value if type(value) is dict and count == number else None
        for value, count, number in zip(values, found, expected, strict=True)
    ]


def _num_marks(lines: Sequence[bytes]) -> list[int]:
    """How often ``":`` stands in each line; -1 if blanks may stand between a quote and a colon there."""
    text = np.frombuffer(b"".join(lines), np.uint8)
    ends = running_sum(np.fromiter(map(len, lines), np.int64, len(lines)))
    before, is_colon = text[:-1], text[1:] == ord(":")
    counts: list[int] = np.diff(np.searchsorted(np.flatnonzero(is_colon & (before == ord('"'))), ends)).tolist()
    # \n ends a line, and all other blanks of JSON are below the space
    for place in np.flatnonzero(is_colon & (before <= ord(" "))):
        line = int(np.searchsorted(ends, place, side="right")) - 1
        if _BLANK_KEY.search(lines[line]):
            counts[line] = -1
    return counts


_BLANK_KEY = re.compile(rb'"[ \t\r]+:')


def _loads(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


_SIMPLE = frozenset({str, int, bool, type(None)})
"""Types of values that hold no keys and no rounded number."""


def _num_known_keys(value: Any) -> float:
    try:
        return _num_keys(value)
    except RecursionError:  # the slow parser goes deeper
        return math.inf


def _num_keys(value: Any) -> float:
    """Keys of all objects in a value; infinite if there is a number that may have been rounded."""
    if type(value) is dict:
        total: float = len(value)
        for item in value.values():
            if type(item) is not str:
                total += _num_keys(item)
        return total
    if type(value) is list:
        return sum([_num_keys(item) for item in value if type(item) is not str])
    return math.inf if type(value) is float and abs(value) >= EXACT_INTEGERS else 0


def read_json(path: Path) -> Iterator[Record]:
    """A JSON array, or JSON Lines, told apart by the first character that is not blank."""
    first = _first_character(path)
    if first == "[":
        yield from read_json_array(path)
    elif first == "{":
        yield from read_json_lines(path)
    elif first:
        raise DataError(
            "SP103",
            f"{path} begins with {first!r}: neither a JSON array nor one object per line",
            help="put the rows between [ and ], or write one object per line",
        )


def read_json_array(path: Path) -> Iterator[Record]:
    """The elements of an array, numbered from 1; memory holds one of them and a chunk of the file."""
    window = _Window(path)
    window.next_character()  # the [ that brought us here
    number = 0
    if window.next_character(peek=True) == "]":
        window.next_character()
    else:
        while True:
            number += 1
            yield Record(path, number, *window.element(number))
            separator = window.next_character()
            if separator == "]":
                break
            if separator != ",":
                raise window.broken(f"element {number} is followed by {separator!r}, not by , or ]")
    if after := window.next_character():
        raise window.broken(f"{after!r} after the ] that ends the array")


class _Window:
    """The part of a JSON text that is in memory, and a place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks = text_chunks(path)
        self._text = ""
        self._place = 0
        self._lines_before = 0
        self._complete = False

    @property
    def line(self) -> int:
        return self._lines_before + self._text.count("\n", 0, self._place) + 1

    def next_character(self, *, peek: bool = False) -> str:
        """The next character that is not blank, or "" at the end of the file."""
        while True:
            text, place, end = self._text, self._place, len(self._text)
            while place < end and text[place] in SPACE:
                place += 1
            self._place = place
            if place < end:
                self._place += not peek
                return text[place]
            if not self._read():
                return ""

    def element(self, number: int) -> tuple[Any, int]:
        """The value that begins here, with the count of its mended characters."""
        self.next_character(peek=True)
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
                if end <= len(self._text) - NEAR_END or self._complete:
                    break
                self._read()  # a number this near to the end may go on: -500 and then .5
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos > len(self._text) - NEAR_END
                if not (may_go_on and self._read()):
                    place = f"{self._path}:{number} (an array element, from line {self.line})"
                    raise _invalid(place, error, column=False) from error
            except (ValueError, RecursionError) as error:
                raise _invalid(f"{self._path}:{number} (an array element, from line {self.line})", error) from error
        source = self._text[self._place : end]
        self._place = end
        try:
            return _mend(value, source)
        except RecursionError as error:
            raise _invalid(f"{self._path}:{number}", error) from error

    def broken(self, reason: str) -> DataError:
        reason = reason if self._place < len(self._text) or not self._complete else f"{reason} (cut off?)"
        return DataError("SP103", f"{self._path}:{self.line} is not valid JSON ({reason})", help="mend that place")

    def _read(self) -> bool:
        """More text, as much again as there is, so that a long element is tried few times; False at the end."""
        kept = len(self._text) - self._place
        if kept > streams.MAX_ROW_BYTES:
            raise streams.too_long(self._path, self.line)
        self._lines_before += self._text.count("\n", 0, self._place)
        parts, added = [self._text[self._place :]], 0
        for chunk in self._chunks:
            parts.append(chunk)
            added += len(chunk)
            if added >= kept:
                break
        else:
            self._complete = True
        self._text, self._place = "".join(parts), 0
        return added > 0


def _first_character(path: Path) -> str:
    for chunk in text_chunks(path):
        if text := chunk.lstrip(SPACE):
            return text[0]
    return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers differ in which value of a repeated key they keep, so none is taken."""
    value = dict(pairs)
    if len(value) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _mend(value: Any, source: str) -> tuple[Any, int]:
    # Only an escape can spell half of a pair; whole pairs are spelled like it, hence the look at the value.
    return mended(value) if "\\ud" in source or "\\uD" in source else (value, 0)


def _invalid(place: str, error: Exception, *, help: str = "mend or delete that row", column: bool = True) -> DataError:
    if isinstance(error, RecursionError):
        return DataError("SP103", f"{place} is nested too deeply", help=help)
    reason = str(error)
    if isinstance(error, json.JSONDecodeError):
        reason = f"column {error.colno}: {error.msg}" if column else error.msg
        if "\0" in error.doc[error.pos : error.pos + 1]:
            reason += "; there are NUL bytes, which a crash while writing leaves behind"
    return DataError("SP103", f"{place} is not valid JSON ({reason})", help=help)


def _line_help(line: str, number: int) -> str:
    """What to do about a line that is no JSON value; at the start of a file it may be another form of JSON."""
    start = line.strip()
    if number == 1 and start.startswith("["):
        return "the file seems to hold a JSON array: call it .json"
    if start in {"{", "["} or (number == 1 and start.startswith("{") and not start.endswith("}")):
        return (
            "an object over several lines? write one object per line, or put all rows between [ and ] in a .json file"
        )
    return "mend or delete that line"
