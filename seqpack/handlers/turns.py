"""What the two forms of conversations, ShareGPT and OpenAI, have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Role

THOUGHT = "<think>\n{}\n</think>\n\n"
"""How a thought stands before the answer, as the thinking templates know it."""

ASKS: tuple[Role, ...] = ("user", "observation")
REPLIES: tuple[Role, ...] = ("assistant", "function")


def refuse_preferences(record: Mapping[str, Any]) -> None:
    """RejectError for a row with two answers, which a handler of conversations would misread."""
    if "chosen" in record and "rejected" in record:
        raise RejectError("'chosen' and 'rejected' answers: preference data, not one conversation")


def turns_of(value: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """The list of turns in ``value``; RejectError if it is empty, or something else."""
    if not isinstance(value, list | tuple):
        raise RejectError(f"{name!r} is {type(value).__name__}, not a list of messages")
    if not value:
        raise RejectError(f"empty {name!r}")
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RejectError(f"message in {name!r} is {type(turn).__name__}, not an object")
    return value


def train_flag(turn: Mapping[str, Any]) -> bool | None:
    """Whether the data ask to train on a message (``train``: true or false, ``weight``: 1 or 0); None if they do not.

    RejectError for any other value, and for two that contradict each other.
    """
    flags = set()
    for key in ("train", "weight"):
        value = turn.get(key)
        if value is not None:
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise RejectError(f"{key!r} of a message is neither 0 nor 1, neither true nor false")
            flags.add(bool(value))
    if len(flags) > 1:
        raise RejectError("'train' and 'weight' of a message contradict each other")
    return next(iter(flags), None)


def tools_text(value: Any, name: str) -> str:
    """A tools column as JSON text of a list, "" for none; it may hold that text, the list, or one object."""
    if isinstance(value, str):
        if not value.strip():
            return ""
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RejectError(f"{name!r} is not valid JSON") from error
    if not value:
        return ""
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RejectError(f"{name!r} is not a list of tools")
    return json.dumps(list(tools), ensure_ascii=False)


def check_some_reply(messages: Sequence[Message]) -> None:
    """RejectError unless there is a reply, and the last message is one."""
    if not any(message.role in REPLIES for message in messages):
        raise RejectError("no reply of the assistant")
    if messages[-1].role not in REPLIES:
        raise RejectError("the last message is not a reply")
    if all(message.train is False for message in messages):
        raise RejectError("no message is to be trained on")
