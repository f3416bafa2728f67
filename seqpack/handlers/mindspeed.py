"""How MindSpeed-LLM reads rows, for ``--compat mindspeed`` alone. Source: ``mindspeed_llm/tasks/preprocess/utils.py``.

A row becomes a prompt of messages, a list of responses, a system text and tools; how many responses there may be is
decided later. ``all_columns`` names those of the whole data set: a column that only this row lacks is null in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqpack.core.errors import ConfigError, RejectError, UncoveredError
from seqpack.core.types import Message, Preference, Question, Role, Sample
from seqpack.handlers.sharegpt import TAG_ROLES, TAGS

ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
OPENAI_TAGS: dict[str, str | None] = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
LEFT_OUT = "no exchange, which MindSpeed-LLM leaves out"
Columns = Callable[[], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """What they make of a row, before they look at how many responses there are."""

    prompt: list[Message]
    responses: list[Message]
    system: str = ""
    tools: str = ""


Reader = Callable[[Mapping[str, Any]], Row]


@dataclass(frozen=True, slots=True)
class AlpacaReader:
    """``system`` and ``history`` are read only if mapped. ``ranking``: the responses are two answers."""

    columns: Mapping[str, Any]
    all_columns: Columns
    ranking: bool = False
    parts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        known = (*ALPACA_COLUMNS, "history", "system", *ANSWERS)
        _check_parts(self.columns, known)
        object.__setattr__(self, "parts", ALPACA_COLUMNS | ANSWERS | dict(self.columns))

    def __call__(self, record: Mapping[str, Any]) -> Row:
        prompt: list[Message] = []
        history = self._value(record, "history")
        if isinstance(history, list | dict):
            for pair in history:
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise UncoveredError("a turn of the history that is not a pair")
                prompt += [_message("user", pair[0]), _message("assistant", pair[1])]
        asked = [text for part in ("prompt", "query") if (text := self._value(record, part))]
        if not all(isinstance(text, str) for text in asked):
            raise UncoveredError("an instruction that is not text")
        prompt.append(Message("user", "\n".join(asked)))
        responses = self._answers(record) if self.ranking else self._replies(record)
        return Row(prompt, responses, _text(self._value(record, "system"), "system"))

    def _replies(self, record: Mapping[str, Any]) -> list[Message]:
        value = self._value(record, "response")
        if isinstance(value, list):
            return [_message("assistant", text) for text in value]
        return [Message("assistant", value)] if isinstance(value, str) else []

    def _answers(self, record: Mapping[str, Any]) -> list[Message]:
        chosen = self._value(record, "chosen")
        if not isinstance(chosen, list | str):
            return []
        rejected = self._value(record, "rejected")
        if isinstance(chosen, list):  # of several rejected answers they take the second
            if not chosen or not isinstance(rejected, list | str) or len(rejected) < 2:
                raise UncoveredError("answers of which there is no second rejected one")
            return [_message("assistant", chosen[0]), _message("assistant", rejected[1])]
        return [_message("assistant", chosen), _message("assistant", rejected)]

    def _value(self, record: Mapping[str, Any], part: str) -> Any:
        column = self.parts.get(part)
        return None if not column else _column(record, column, self.all_columns)


@dataclass(frozen=True, slots=True)
class SharegptReader:
    """``system`` and ``tools`` are read only if mapped; ``tags`` that do not name a word leave it out."""

    columns: Mapping[str, Any]
    all_columns: Columns
    ranking: bool = False
    tags: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        _check_parts(self.columns, ("messages", "tags", "system", "tools", *ANSWERS, "kto_tag"))
        given = self.columns.get("tags")
        if given is not None:
            _check_parts(given, tuple(TAGS))
        object.__setattr__(self, "tags", TAGS if given is None else {tag: given.get(tag) for tag in TAGS})

    def __call__(self, record: Mapping[str, Any]) -> Row:
        messages, system = _opening(record, self._value(record, "messages"), self.tags)
        if system is None:
            system = self._value(record, "system") or ""
        if not messages:
            raise RejectError(LEFT_OUT)
        aligned, is_broken = self._aligned(messages)
        if self.ranking == (len(aligned) % 2 == 0):
            raise RejectError("an odd number of messages, which MindSpeed-LLM leaves out")
        prompt, responses = aligned, []
        chosen, rejected = (self._value(record, part) if self.ranking else None for part in ANSWERS)
        if isinstance(chosen, Mapping) and isinstance(rejected, Mapping):
            is_broken |= not all(self._is_reply(answer) for answer in (chosen, rejected))
            responses = [self._turn(answer) for answer in (chosen, rejected)]
        else:
            prompt, responses = aligned[:-1], aligned[-1:]
        if is_broken or not prompt:
            raise RejectError("roles in an order that MindSpeed-LLM leaves out" if is_broken else LEFT_OUT)
        made = [[_message(role, content) for role, content in part] for part in (prompt, responses)]
        return Row(made[0], made[1], _text(system, "system"), _tools(self._value(record, "tools")))

    def _aligned(self, messages: list[Any]) -> tuple[list[tuple[Any, Any]], bool]:
        """Roles and contents, messages without content left out; and whether somebody speaks out of turn."""
        tags = self.tags
        places = ((tags["user_tag"], tags["observation_tag"]), (tags["assistant_tag"], tags["function_tag"]))
        is_broken = False
        aligned = []
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping):
                raise UncoveredError("a message that is not an object")
            is_broken |= message.get(tags["role_tag"]) not in places[place % 2]
            if message.get(tags["content_tag"]) is not None:
                aligned.append(self._turn(message))
        return aligned, is_broken

    def _is_reply(self, answer: Mapping[str, Any]) -> bool:
        return answer.get(self.tags["role_tag"]) in (self.tags["assistant_tag"], self.tags["function_tag"])

    def _turn(self, message: Mapping[str, Any]) -> tuple[Any, Any]:
        role = _role(message.get(self.tags["role_tag"]), self.tags)
        return role, message.get(self.tags["content_tag"])

    def _value(self, record: Mapping[str, Any], part: str) -> Any:
        column = self.columns.get(part, {"messages": "conversations"} | ANSWERS)
        if isinstance(column, dict):
            column = column.get(part)
        return None if not column else _column(record, column, self.all_columns)


@dataclass(frozen=True, slots=True)
class OpenAIReader:
    """``tools`` is read unless it is switched off, ``system`` only if mapped. Only the texts of messages are used."""

    columns: Mapping[str, Any]
    all_columns: Columns

    def __post_init__(self) -> None:
        _check_parts(self.columns, ("messages", "system", "tools"))

    def __call__(self, record: Mapping[str, Any]) -> Row:
        value = self._value(record, "messages", "messages")
        if value == []:
            raise RejectError(LEFT_OUT)
        messages, system = _opening(record, value, OPENAI_TAGS)
        if system is None:
            system = self._value(record, "system", None) or ""
        made: list[Message] = []
        for message in messages:
            if not isinstance(message, Mapping):
                raise UncoveredError("a message that is not an object")
            role = _role(message.get("role"), OPENAI_TAGS)
            if role is None:
                raise RejectError("an unknown role, which MindSpeed-LLM leaves out")
            content = message.get("content")
            made.append(_message(role, "" if content is None else content))
        if len(made) < 2 or made[0].role not in ("user", "system") or made[-1].role != "assistant":
            raise RejectError("roles in an order that MindSpeed-LLM leaves out" if made else LEFT_OUT)
        tools = self._value(record, "tools", "tools")
        if isinstance(tools, list | dict):
            tools = json.dumps(tools, ensure_ascii=False)
        return Row(made[:-1], made[-1:], _text(system, "system"), _tools(tools))

    def _value(self, record: Mapping[str, Any], part: str, default: str | None) -> Any:
        column = self.columns.get(part, default)
        return None if not column else _column(record, column, self.all_columns)


@dataclass(frozen=True, slots=True)
class SampleHandler:
    """A row as a conversation; an odd one becomes an empty exchange, which they train on."""

    read: Reader

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        row = _usable(self.read(record))
        messages = [*row.prompt, *row.responses]
        if len(row.prompt) % 2 != 1 or len(row.responses) != 1:
            messages = [Message("user", ""), Message("assistant", "")]
        yield _sample(row, messages)


@dataclass(frozen=True, slots=True)
class PairHandler:
    """A row as a preference pair."""

    read: Reader
    kind: str = "pairwise"
    column_names: tuple[str, ...] = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Preference]:
        row = _usable(self.read(record))
        if len(row.responses) < 2:
            raise UncoveredError("a preference row without two answers")
        chosen, rejected = (_sample(row, [*row.prompt, answer]) for answer in row.responses[:2])
        yield Preference(chosen, rejected)


@dataclass(frozen=True, slots=True)
class QuestionHandler:
    """A row as a conversation with its reply, and the texts of further columns."""

    read: Reader
    all_columns: Columns
    keys: tuple[str, ...] = ()
    kind: str = "prompt"

    @property
    def column_names(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", *self.keys)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Question]:
        row = _usable(self.read(record))
        (sample,) = SampleHandler(lambda _: row)(record)
        texts = [
            row.responses[-1].content if key == "labels" else _column(record, key, self.all_columns)
            for key in self.keys
        ]
        if not all(isinstance(text, str) for text in texts):
            raise UncoveredError("a column of --dataset-additional-keys that is not text")
        yield Question(sample, tuple(texts))


def _usable(row: Row) -> Row:
    if not row.prompt or not row.responses:
        raise RejectError(LEFT_OUT)
    return row


def _sample(row: Row, messages: list[Message]) -> Sample:
    opening = [Message("system", row.system)] if row.system else []
    return Sample((*opening, *messages), tools=row.tools)


def _opening(record: Mapping[str, Any], value: Any, tags: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The messages behind a leading system message, and its text; None if there is none."""
    if not isinstance(value, list | tuple) or (not value and tags["system_tag"]):
        raise UncoveredError("a conversation without messages")
    messages = list(value)
    first = messages[0] if messages else {}
    if not isinstance(first, Mapping):
        raise UncoveredError("a message that is not an object")
    if tags["system_tag"] and first.get(tags["role_tag"]) == tags["system_tag"]:
        return messages[1:], first.get(tags["content_tag"]) or ""
    return messages, None


def _role(word: Any, tags: Mapping[str, Any]) -> Role | None:
    """Who speaks; of tags with the same word the last one counts, as in their table."""
    return next((role for tag, role in reversed(TAG_ROLES.items()) if tags[tag] == word), None)


def _message(role: Any, content: Any) -> Message:
    if role is None or not isinstance(content, str):
        raise UncoveredError("a message whose content is not text, or of an unknown role")
    return Message(role, content)


def _text(value: Any, name: str) -> str:
    if value and not isinstance(value, str):
        raise UncoveredError(f"{name!r} that is not text")
    return value or ""


def _tools(value: Any) -> str:
    """Tools as they are; what is not text is text that no format understands, which is what happens to it there."""
    return value if isinstance(value, str) else str(value) if value else ""


def _column(record: Mapping[str, Any], column: str, all_columns: Columns) -> Any:
    if column not in record and column not in all_columns():
        raise RejectError(f"no column {column!r}", missing_column=True)
    return record.get(column)


def _check_parts(columns: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [part for part in columns if part not in known]:
        raise ConfigError("SP010", f"--map-keys: no part {unknown[0]!r}", help=f"parts: {', '.join(known)}")
