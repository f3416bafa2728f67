"""MOSS chats: ``chat`` is an object of turns, each with what ``Human`` and ``MOSS`` said between marks."""

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.api import Message, RejectError, Sample
from seqpack_handlers_zoo.rows import check_no_columns, text

MARKS = {"Human": ("<|Human|>:", "<eoh>"), "MOSS": ("<|MOSS|>:", "<eom>")}
Turn = tuple[Message, Message]


class MOSSMultiTurnHandler:
    """One conversation per row; every reply is trained on."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        check_no_columns(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        yield Sample(tuple(message for turn in _turns(record) for message in turn))


class MOSSInstructionHandler:
    """A conversation for each turn of a row, with all before it; its last reply is trained on, the others are not."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        check_no_columns(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        before: tuple[Message, ...] = ()
        for human, moss in _turns(record):
            yield Sample((*before, human, moss))
            before = (*before, human, moss._replace(train=False))


def _turns(record: Mapping[str, Any]) -> list[Turn]:
    if "chat" not in record:
        raise RejectError("no column 'chat'", missing_column=True)
    if not isinstance(record["chat"], Mapping):
        raise RejectError(f"'chat' is {type(record['chat']).__name__}, not an object of turns")
    # Parquet files have a column for every turn of the longest chat, and null where a chat is shorter.
    turns = [turn for _, turn in sorted(record["chat"].items(), key=_number) if turn]
    if not turns:
        raise RejectError("empty 'chat'")
    return [(Message("user", _said(turn, "Human")), Message("assistant", _said(turn, "MOSS"))) for turn in turns]


def _number(item: tuple[str, Any]) -> int:
    """Turns are called turn_1, turn_2, ...; files may hold turn_10 before turn_2."""
    digits = item[0].removeprefix("turn_")
    if not digits.isdecimal():
        raise RejectError(f"'chat' has {item[0][:40]!r}, not turn_1, turn_2, ...")
    return int(digits)


def _said(turn: Any, speaker: str) -> str:
    if not isinstance(turn, Mapping):
        raise RejectError(f"a turn is {type(turn).__name__}, not an object")
    said = text(turn, speaker)
    for mark in MARKS[speaker]:
        said = said.replace(mark, "")
    if not said.strip():
        raise RejectError(f"empty {speaker!r}")
    return said.strip()
