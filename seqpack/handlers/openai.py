"""OpenAI rows: ``messages`` of ``{"role": ..., "content": ...}`` with tool calls and reasoning, and ``tools``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Role, Sample
from seqpack.handlers.columns import ColumnMap, as_text
from seqpack.handlers.turns import THOUGHT, check_some_reply, refuse_preferences, tools_text, train_flag, turns_of
from seqpack.hooks.specs import Columns

COLUMNS: dict[str, str] = {"messages": "messages", "system": "system", "tools": "tools"}
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "observation",
    "function": "observation",  # the older name of a tool's result; the call is ``function_call`` of the assistant
}


class OpenAIHandler:
    """One conversation per row; ``columns`` maps messages, system, tools to column names.

    ``content`` is text or a list of text parts. ``tool_calls`` of an assistant message become one function message
    behind it (the assistant message itself is left out if it says nothing); results of tools become observations, in
    their order, which is how ``tool_call_id`` is honoured. ``reasoning_content`` goes before the content as a thought.
    ``train`` or ``weight`` of a message says whether to train on it. Which orders of roles can be rendered is for the
    template to say.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = ColumnMap("a list of messages", COLUMNS, columns, required=("messages",))

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        refuse_preferences(record)
        turns = turns_of(self._columns.value(record, "messages"), self._columns.name("messages"))
        messages = [message for turn in turns for message in _messages(turn)]
        system = self._columns.text(record, "system")
        if system and messages and messages[0].role == "system" and system != messages[0].content:
            raise RejectError("two system messages, one of them in a column of its own")
        if system and not (messages and messages[0].role == "system"):
            messages.insert(0, Message("system", system))
        check_some_reply(messages)
        yield Sample(
            tuple(messages), tools=tools_text(self._columns.value(record, "tools"), self._columns.name("tools"))
        )


def _messages(turn: Mapping[str, Any]) -> Iterator[Message]:
    if "role" not in turn:
        raise RejectError("message without 'role'", missing_column=True)
    role = ROLES.get(turn["role"]) if isinstance(turn["role"], str) else None
    if role is None:
        raise RejectError(f"unknown role {str(turn['role'])[:40]!r}")
    if "content" not in turn and "tool_calls" not in turn and "function_call" not in turn:
        raise RejectError("message without 'content'", missing_column=True)
    train, content, calls = train_flag(turn), _text(turn.get("content")), _calls(turn)
    if role != "assistant":
        if calls:
            raise RejectError(f"tool calls in a message of {turn['role']!r}")
        yield Message(role, content, train)
        return
    thought = as_text(turn.get("reasoning_content"), "reasoning_content").strip("\n")
    if not content and not calls:
        raise RejectError("empty reply")
    if thought:
        content = THOUGHT.format(thought) + content
    if content:
        yield Message("assistant", content, train)
    if calls:
        yield Message("function", json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False), train)


def _text(content: Any) -> str:
    if not isinstance(content, list | tuple):
        return as_text(content, "content")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("text", "input_text", "output_text"):
            raise RejectError(f"content part of type {str(kind)[:40]!r}, not text")
        texts.append(as_text(part.get("text"), "text"))
    return "".join(texts)


def _calls(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of a message as ``{"name": ..., "arguments": {...}}``; RejectError if one is of another form."""
    calls = turn.get("tool_calls")
    if calls and turn.get("function_call"):
        raise RejectError("both 'tool_calls' and 'function_call'")
    if turn.get("function_call"):
        calls = [turn["function_call"]]
    if not isinstance(calls, list | tuple | None):
        raise RejectError(f"'tool_calls' is {type(calls).__name__}, not a list")
    return [_call(call) for call in calls or ()]


def _call(call: Any) -> dict[str, Any]:
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        call = call["function"]
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str) or not call["name"]:
        raise RejectError("tool call without a name")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise RejectError("arguments of a tool call are not JSON") from error
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RejectError(f"arguments of a tool call are a {type(arguments).__name__}")
    return {"name": call["name"], "arguments": dict(arguments or {})}
