"""ShareGPT rows: what becomes a sample, what is rejected and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.handlers.sharegpt import SharegptHandler

MORE = Path(__file__).parents[2].parent / "shared"
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
CALL = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
RESULT = {"from": "observation", "value": "3"}
ROW = {"conversations": [HUMAN, GPT]}


def sample(row: dict[str, Any], **columns: Any) -> Sample:
    (made,) = SharegptHandler(columns)(row)
    return made


def roles(row: dict[str, Any], **columns: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in sample(row, **columns).messages]


def rejection(row: dict[str, Any], **columns: Any) -> RejectError:
    with pytest.raises(RejectError) as error:
        list(SharegptHandler(columns)(row))
    return error.value


def test_turns_become_messages():
    assert roles({"conversations": [HUMAN, CALL, RESULT, GPT]}) == [
        ("user", "Hi"), ("function", CALL["value"]), ("observation", "3"), ("assistant", "Hello"),
    ]  # fmt: skip


def test_a_call_may_be_an_object():
    row = {"conversations": [HUMAN, CALL | {"value": json.loads(CALL["value"])}]}
    assert roles(row)[-1] == ("function", CALL["value"])


@pytest.mark.parametrize(
    "row",
    [ROW | {"system": "Be kind."}, {"conversations": [{"from": "system", "value": "Be kind."}, HUMAN, GPT]}],
    ids=["column", "message"],
)
def test_the_system_message_comes_first(row):
    assert roles(row) == [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]


def test_two_system_messages_must_agree():
    row = {"system": "Be kind.", "conversations": [{"from": "system", "value": "Be kind."}, HUMAN, GPT]}
    assert roles(row)[0] == ("system", "Be kind.")
    assert "two system messages" in rejection(row | {"system": "Be rude."}).reason


@pytest.mark.parametrize("tools", ['[{"name": "add"}]', [{"name": "add"}], {"name": "add"}, '{"name": "add"}'])
def test_tools_are_json_text_of_a_list(tools):
    assert sample(ROW | {"tools": tools}).tools == '[{"name": "add"}]'


@pytest.mark.parametrize("tools", [None, "", " ", [], {}, "[]"])
def test_no_tools(tools):
    assert sample(ROW | {"tools": tools}).tools == ""


@pytest.mark.parametrize("tools", ["{", 3, [3], '"add"'])
def test_tools_of_another_form_are_rejected(tools):
    assert rejection(ROW | {"tools": tools}).reason.startswith("'tools' is not")


@pytest.mark.parametrize(
    ("flags", "train"),
    [({}, None), ({"train": None}, None), ({"train": False}, False), ({"weight": 0}, False), ({"weight": 1.0}, True)],
)
def test_a_turn_may_say_whether_it_is_trained(flags, train):
    row = {"conversations": [HUMAN, GPT, HUMAN, GPT | flags]}
    assert sample(row).messages[-1] == Message("assistant", "Hello", train)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"train": "no"}, "'train' of a message"),
        ({"weight": 0.5}, "'weight'"),
        ({"train": True, "weight": 0}, "contrad"),
    ],
)
def test_other_flags_are_rejected(flags, reason):
    assert reason in rejection({"conversations": [HUMAN, GPT | flags]}).reason


def test_columns_and_tags_can_have_other_names():
    row = {"chat": [{"role": "u", "text": "Hi"}, {"role": "a", "text": "Hello"}], "persona": "Be kind."}
    tags = {"role_tag": "role", "content_tag": "text", "user_tag": "u", "assistant_tag": "a"}
    assert roles(row, messages="chat", system="persona", tags=tags) == [
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"),
    ]  # fmt: skip


def test_a_role_that_tags_do_not_name_is_not_expected():
    row = {"conversations": [{"from": "system", "value": "Be kind."}, HUMAN, GPT]}
    assert rejection(row, tags={"user_tag": "human"}).reason == "unknown role 'system'"
    assert rejection({"conversations": [HUMAN, CALL]}, tags={"system_tag": "system"}).reason.startswith("unknown role")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "empty 'conversations'"),
        (None, "'conversations' is NoneType, not a list of messages"),
        ("Hi", "'conversations' is str, not a list of messages"),
        (["Hi"], "message in 'conversations' is str, not an object"),
        ([HUMAN, {"from": "human"}], "message without 'value'"),
        ([HUMAN, {"value": "Hello"}], "message without 'from'"),
        ([HUMAN, GPT | {"from": "bot"}], "unknown role 'bot'"),
        ([HUMAN, GPT | {"from": None}], "unknown role 'None'"),
        ([HUMAN, GPT | {"value": ""}], "empty reply"),
        ([HUMAN, GPT | {"value": 3}], "'value' is int, not text"),
        ([HUMAN], "no reply of the assistant"),
        ([HUMAN, GPT, HUMAN], "the last message is not a reply"),
        ([GPT, HUMAN], "assistant message where a question belongs"),
        ([HUMAN, HUMAN, GPT], "user message where a reply belongs"),
        ([HUMAN, RESULT], "observation message where a reply belongs"),
    ],
)
def test_what_is_no_conversation_is_rejected(turns, reason):
    assert rejection({"conversations": turns}).reason == reason


def test_a_conversation_nobody_trains_on_is_rejected():
    row = {"conversations": [HUMAN | {"train": False}, GPT | {"train": False}]}
    assert rejection(row).reason == "no message is to be trained on"


def test_preference_data_are_not_read_as_one_conversation():
    assert "preference data" in rejection(ROW | {"chosen": GPT, "rejected": GPT}).reason


def test_a_missing_column_is_marked():
    assert rejection({"messages": []}).missing_column
    assert rejection(ROW, tools="functions").missing_column


@pytest.mark.parametrize(
    ("columns", "phrase"),
    [
        ({"message": "chat"}, "did you mean 'messages'"),
        ({"kto_tag": "label"}, "no part 'kto_tag'"),
        ({"messages": None}, "cannot be switched off"),
        ({"tags": "from"}, "'tags' is not an object"),
        ({"tags": {"role": "from"}}, "did you mean 'role_tag'"),
        ({"tags": {"user_tag": "gpt"}}, "two tags have the same name"),
    ],
)
def test_wrong_map_keys_are_answered(columns, phrase):
    with pytest.raises(ConfigError, match=phrase) as error:
        SharegptHandler(columns)
    assert error.value.code == "SP010"


@pytest.mark.skipif(not MORE.is_dir(), reason="../shared is not there")
@pytest.mark.parametrize(
    ("file", "samples"),
    [("golden/mindspeed/inputs/sharegpt_tools_20.jsonl", 20), ("data/formats/sharegpt_200.jsonl", 200)],
)
def test_real_rows_are_read(file, samples):
    rows = [json.loads(line) for line in (MORE / file).read_bytes().splitlines()]
    made = [sample(row) for row in rows]
    assert len(made) == samples
    for row, one in zip(rows, made, strict=True):
        turns = [message for message in one.messages if message.role != "system"]
        assert [message.content for message in turns] == [turn["value"] for turn in row["conversations"]]
        assert bool(one.tools) == (row.get("tools") not in (None, "", "[]"))
