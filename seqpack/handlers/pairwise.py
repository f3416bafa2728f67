"""Preference data: rows with a better (``chosen``) and a worse (``rejected``) answer to the same conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Preference, Sample
from seqpack.handlers import alpaca, sharegpt
from seqpack.handlers.alpaca import earlier_turns
from seqpack.handlers.columns import ColumnMap
from seqpack.handlers.turns import REPLIES
from seqpack.hooks.specs import Columns

PAIRWISE_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
ALPACA_COLUMNS = {part: column for part, column in alpaca.COLUMNS.items() if part != "response"} | ANSWERS
SHAREGPT_COLUMNS = sharegpt.COLUMNS | ANSWERS


class AlpacaPairwiseHandler:
    """``instruction``, ``input``, ``system``, ``history`` ask; ``chosen`` and ``rejected`` are texts that answer."""

    kind = "pairwise"
    column_names = PAIRWISE_COLUMNS

    def __init__(self, columns: Columns) -> None:
        required = ("prompt", *ANSWERS)
        self._columns = ColumnMap("an Alpaca row with two answers", ALPACA_COLUMNS, columns, required=required)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Preference]:
        columns = self._columns
        user = alpaca.question(record, columns)
        system = columns.text(record, "system")
        before = [Message("system", system)] if system else []
        before += [*earlier_turns(record, columns), Message("user", user)]
        chosen, rejected = (self._answer(record, part) for part in ANSWERS)
        yield _preference(before, Message("assistant", chosen), Message("assistant", rejected))

    def _answer(self, record: Mapping[str, Any], part: str) -> str:
        value = self._columns.value(record, part)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str):
            raise RejectError(f"{self._columns.name(part)!r} is {type(value).__name__}, not one text")
        if not value:
            raise RejectError(f"empty {self._columns.name(part)!r}")
        return value


class SharegptPairwiseHandler(sharegpt.SharegptHandler):
    """``conversations`` end with a question; ``chosen`` and ``rejected`` are turns such as ``{"from": "gpt", ...}``."""

    kind = "pairwise"
    column_names = PAIRWISE_COLUMNS
    parts = SHAREGPT_COLUMNS
    required = ("messages", *ANSWERS)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Preference]:  # type: ignore[override]
        conversation = self.conversation(record)
        chosen, rejected = (self._answer(record, part) for part in ANSWERS)
        sharegpt.check_order([*conversation.messages, chosen])
        pair = _preference(list(conversation.messages), chosen, rejected)
        tools = conversation.tools
        yield Preference(pair.chosen._replace(tools=tools), pair.rejected._replace(tools=tools))

    def _answer(self, record: Mapping[str, Any], part: str) -> Message:
        value = self._columns.value(record, part)
        if not isinstance(value, Mapping):
            raise RejectError(f"{self._columns.name(part)!r} is {type(value).__name__}, not a message")
        message = self.message(value)
        if message.role not in REPLIES:
            raise RejectError(f"{self._columns.name(part)!r} is a {message.role} message, not a reply")
        return message


def _preference(before: list[Message], chosen: Message, rejected: Message) -> Preference:
    if chosen.content == rejected.content:
        raise RejectError("the same answer is chosen and rejected")
    return Preference(Sample((*before, chosen)), Sample((*before, rejected)))
