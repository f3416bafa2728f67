"""MindSpeed-LLM's handlers that write a fixed text of their own, for ``--compat mindspeed`` alone.

Source: ``mindspeed_llm/tasks/preprocess/data_handler.py``. Values are used as they are: what is missing becomes
``None`` in a text, and an empty text is no document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seqpack.core.errors import RejectError, UncoveredError
from seqpack.core.types import Message, Sample, TextSample
from seqpack.handlers.pretrain import ALPACA_TEXT

USER, ASSISTANT = "### Instruction:", "### Response:"
PROMPTER_SYSTEM = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request. "
    "Please note that you need to think through your response logically and step by step."
)

Columns = Callable[[], frozenset[str]]


@dataclass(frozen=True, slots=True)
class TextHandler:
    """Columns of text, a document each."""

    text_keys: tuple[str, ...]
    all_columns: Columns

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        yield TextSample(tuple(_text(record, key, self.all_columns) for key in self.text_keys))


@dataclass(frozen=True, slots=True)
class SharegptTextHandler:
    """The turns of conversations, joined."""

    text_keys: tuple[str, ...]
    all_columns: Columns

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        yield TextSample(tuple(self._joined(record, key) for key in self.text_keys))

    def _joined(self, record: Mapping[str, Any], key: str) -> str:
        if key not in record and key not in self.all_columns():
            raise RejectError(f"no column {key!r}", missing_column=True)
        turns = record.get(key)
        if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) for turn in turns):
            raise UncoveredError(f"{key!r} that is not a list of messages")
        texts = [turn.get("value") if turn.get("value") is not None else turn.get("content") for turn in turns]
        if not all(isinstance(text, str) for text in texts):
            raise UncoveredError("a message without text")
        return "".join(map(str, texts))


@dataclass(frozen=True, slots=True)
class AlpacaTextHandler:
    """A row inside a fixed text, with ``###None`` where it has no input."""

    text_keys: tuple[str, ...] = ("text",)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        asked = record.get("input")
        query = f"### Input:\n{asked}\n\n" if asked else "###None\n\n"
        values = {"prompt": record.get("instruction"), "response": record.get("output"), "query": query}
        yield TextSample((ALPACA_TEXT.format(**values),))


@dataclass(frozen=True, slots=True)
class PrompterHandler:
    """An exchange, or several in one column, of which the last reply is in another."""

    all_columns: Columns
    name: str

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        read = {
            "GeneralInstructionHandler": self._exchange,
            "LeetcodePythonInstructionHandler": self._leetcode,
            "BelleMultiTurnInstructionHandler": self._belle,
        }[self.name]
        yield Sample(tuple(read(record)))

    def _exchange(self, record: Mapping[str, Any]) -> list[Message]:
        asked, more, reply = (self._text(record, key) for key in ("instruction", "input", "output"))
        return [Message("user", f"{asked}\n{more}"), Message("assistant", reply)]

    def _leetcode(self, record: Mapping[str, Any]) -> list[Message]:
        keys = ("code_with_problem", "code_only", "explanation_only")
        problem, code, explanation = (self._text(record, key) for key in keys)
        asked = problem.split("```", maxsplit=1)[0].strip()
        return [Message("user", asked), Message("assistant", f"{code}\n{explanation}")]

    def _belle(self, record: Mapping[str, Any]) -> list[Message]:
        messages: list[Message] = []
        for turn in filter(None, self._text(record, "instruction").split("Human:")):
            said = turn.split("Assistant:")
            if len(said) > 1:
                messages.append(Message("user", said[0].strip()))
            messages.append(Message("assistant", said[min(len(said) - 1, 1)].strip()))
        if not messages:
            raise UncoveredError("an empty conversation")
        return [*messages[:-1], Message("assistant", self._text(record, "output").strip())]

    def _text(self, record: Mapping[str, Any], key: str) -> str:
        return _text(record, key, self.all_columns)


def prompter_text(messages: tuple[Message, ...]) -> tuple[str, str]:
    """The whole text of a conversation, and that of it up to where its last reply begins."""
    parts = [f"\n{PROMPTER_SYSTEM}\n"]
    parts += [f"{USER if message.role == 'user' else ASSISTANT}\n{message.content}\n" for message in messages]
    text = "".join(parts)
    return text, text.rsplit(ASSISTANT, maxsplit=1)[0] + ASSISTANT + "\n"


def _text(record: Mapping[str, Any], key: str, all_columns: Columns) -> str:
    if key not in record and key not in all_columns():
        raise RejectError(f"no column {key!r}", missing_column=True)
    if not isinstance(record.get(key), str):
        raise UncoveredError(f"{key!r} that is not text")
    return str(record[key])
