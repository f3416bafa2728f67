"""OpenAI rows: content, tool calls and reasoning as messages, and what is rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.handlers.openai import OpenAIHandler

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ADD = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALL = {"role": "assistant", "content": None, "tool_calls": [ADD]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "3"}


def sample(*messages: Any, **others: Any) -> Sample:
    (made,) = OpenAIHandler({})({"messages": list(messages)} | others)
    return made


def roles(*messages: Any, **others: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in sample(*messages, **others).messages]


def rejection(*messages: Any, **others: Any) -> RejectError:
    with pytest.raises(RejectError) as error:
        sample(*messages, **others)
    return error.value


def test_a_whole_conversation():
    system = {"role": "system", "content": "Be kind."}
    assert roles(system, USER, CALL, RESULT, REPLY) == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("function", '{"name": "add", "arguments": {"a": 1}}'),
        ("observation", "3"),
        ("assistant", "Hello"),
    ]


def test_several_calls_are_a_list_and_results_keep_their_order():
    both = CALL | {"tool_calls": [ADD, {"function": {"name": "now", "arguments": {}}}]}
    made = roles(USER, both, RESULT, RESULT | {"content": "noon"}, REPLY)
    assert [role for role, _ in made] == ["user", "function", "observation", "observation", "assistant"]
    assert json.loads(made[1][1]) == [{"name": "add", "arguments": {"a": 1}}, {"name": "now", "arguments": {}}]


def test_what_is_said_before_a_call_is_a_message_of_its_own():
    assert [role for role, _ in roles(USER, CALL | {"content": "Wait."})] == ["user", "assistant", "function"]


def test_the_older_form_of_a_call():
    call = {"role": "assistant", "function_call": ADD["function"]}
    made = roles(USER, call, {"role": "function", "name": "add", "content": "3"}, REPLY)
    assert [role for role, _ in made] == ["user", "function", "observation", "assistant"]


def test_reasoning_is_a_thought_before_the_answer():
    made = roles(USER, REPLY | {"reasoning_content": "\nA greeting.\n"})
    assert made[-1] == ("assistant", "<think>\nA greeting.\n</think>\n\nHello")
    assert roles(USER, REPLY | {"reasoning_content": ""})[-1] == ("assistant", "Hello")


def test_reasoning_before_a_call_is_kept():
    made = roles(USER, CALL | {"reasoning_content": "Add."})
    assert made[1:] == [
        ("assistant", "<think>\nAdd.\n</think>\n\n"),
        ("function", '{"name": "add", "arguments": {"a": 1}}'),
    ]


def test_content_may_be_parts_of_text():
    parts = [{"type": "text", "text": "He"}, {"text": "llo"}]
    assert roles(USER, REPLY | {"content": parts})[-1] == ("assistant", "Hello")


def test_system_and_developer():
    assert roles({"role": "developer", "content": "Be kind."}, USER, REPLY)[0] == ("system", "Be kind.")
    assert roles(USER, REPLY, system="Be kind.")[0] == ("system", "Be kind.")
    assert "two system" in rejection({"role": "system", "content": "Be rude."}, USER, REPLY, system="Be kind.").reason


def test_tools_are_kept():
    assert sample(USER, REPLY, tools=[{"type": "function"}]).tools == '[{"type": "function"}]'


def test_flags_of_a_message():
    made = sample(USER, REPLY | {"weight": 0}, USER, REPLY | {"train": True})
    assert made.messages[1] == Message("assistant", "Hello", False) and made.messages[3].train is True
    call = sample(USER, CALL | {"content": "Wait.", "train": False}, RESULT, REPLY)
    assert [message.train for message in call.messages] == [None, False, False, None, None]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty 'messages'"),
        (["Hi"], "message in 'messages' is str, not an object"),
        ([USER], "no reply of the assistant"),
        ([USER, REPLY, USER], "the last message is not a reply"),
        ([USER, {"role": "assistant"}], "message without 'content'"),
        ([USER, {"content": "Hello"}], "message without 'role'"),
        ([USER, REPLY | {"content": None}], "empty reply"),
        ([USER, REPLY | {"reasoning_content": "Hm", "content": ""}], "empty reply"),
        ([USER, REPLY | {"role": "critic"}], "unknown role 'critic'"),
        ([USER, REPLY | {"role": ["assistant"]}], "unknown role \"['assistant']\""),
        ([USER, REPLY | {"content": 3}], "'content' is int, not text"),
        ([USER, REPLY | {"content": [{"type": "image_url"}]}], "content part of type 'image_url', not text"),
        ([USER, REPLY | {"content": ["Hello"]}], "content part of type 'str', not text"),
        ([USER | {"tool_calls": [ADD]}, REPLY], "tool calls in a message of 'user'"),
        ([USER, CALL | {"tool_calls": ADD}], "'tool_calls' is dict, not a list"),
        ([USER, CALL | {"tool_calls": [{"function": {}}]}], "tool call without a name"),
        ([USER, CALL | {"tool_calls": ["add"]}], "tool call without a name"),
        ([USER, CALL | {"tool_calls": [{"name": "a", "arguments": "{"}]}], "arguments of a tool call are not JSON"),
        ([USER, CALL | {"tool_calls": [{"name": "a", "arguments": [1]}]}], "arguments of a tool call are a list"),
        ([USER, CALL | {"function_call": {"name": "a"}}], "both 'tool_calls' and 'function_call'"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_rejected(messages, reason):
    assert rejection(*messages).reason == reason


def test_a_missing_column_is_marked():
    with pytest.raises(RejectError) as error:
        list(OpenAIHandler({})({"conversations": []}))
    assert error.value.missing_column


def test_columns_can_be_renamed():
    (made,) = OpenAIHandler({"messages": "chat", "tools": None})({"chat": [USER, REPLY], "tools": 3})
    assert len(made.messages) == 2 and made.tools == ""


def test_tags_are_not_for_these_rows():
    with pytest.raises(ConfigError, match="no part 'tags'"):
        OpenAIHandler({"tags": {}})
