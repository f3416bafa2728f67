"""BELLE's multiturn chat: all turns but the last reply stand in ``instruction``."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.api import Message, RejectError, Sample
from seqpack_handlers_zoo.rows import check_no_columns, text

_SPEAKER = re.compile(r"(Human|Assistant):")


class BelleMultiTurnInstructionHandler:
    """Turns begin with ``Human:`` and ``Assistant:`` and alternate; ``instruction`` ends with an empty one to fill."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        check_no_columns(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        instruction, output = text(record, "instruction"), text(record, "output")
        before, *parts = _SPEAKER.split(instruction)
        if before.strip() or not parts:
            raise RejectError("'instruction' does not begin with 'Human:'")
        turns = [(speaker, said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
        if turns[-1] == ("Assistant", ""):
            turns.pop()
        speakers = [speaker for speaker, _ in turns]
        if len(turns) % 2 == 0 or speakers != (["Human", "Assistant"] * len(turns))[: len(turns)]:
            raise RejectError("Human and Assistant do not take turns")
        if not all(said for _, said in turns):
            raise RejectError("empty turn")
        messages = [Message("user" if speaker == "Human" else "assistant", said) for speaker, said in turns]
        yield Sample((*messages, Message("assistant", output.strip())))
