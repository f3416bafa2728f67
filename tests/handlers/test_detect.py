"""Which handlers fit which rows."""

from __future__ import annotations

from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.handlers.detect import (
    ALPACA,
    ALPACA_PAIRS,
    DETECTED,
    OPENAI,
    PARTS,
    SHAREGPT,
    SHAREGPT_PAIRS,
    TEXT,
    check_parts,
    detect,
)
from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import HandlerOptions

ALPACA_ROW = {"instruction": "Hi", "input": "", "output": "Hello"}
SHAREGPT_ROW = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
OPENAI_ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
TEXT_ROW = {"text": "Once upon a time"}


def found(*rows: dict[str, Any], json_keys: tuple[str, ...] = (), **columns: Any) -> list[str]:
    return [match.handler for match in detect(rows, HandlerOptions(columns=columns, json_keys=json_keys))]


@pytest.mark.parametrize(
    ("row", "handlers"),
    [
        (ALPACA_ROW, [ALPACA]),
        (SHAREGPT_ROW, [SHAREGPT]),
        (OPENAI_ROW, [OPENAI]),
        (TEXT_ROW, [TEXT]),
        (ALPACA_ROW | TEXT_ROW, [ALPACA, TEXT]),
        (SHAREGPT_ROW | OPENAI_ROW, [SHAREGPT, OPENAI]),
        ({"instruction": "Hi"}, []),
        ({"conversations": OPENAI_ROW["messages"]}, []),
        ({"conversations": "Hi"}, []),
        ({"conversations": []}, []),
        ({"prompt": "Hi", "completion": "Hello"}, []),
        (ALPACA_ROW | {"chosen": "a", "rejected": "b"}, [ALPACA_PAIRS]),
        (SHAREGPT_ROW | {"chosen": {}, "rejected": {}}, [SHAREGPT_PAIRS]),
        (OPENAI_ROW | {"chosen": {}, "rejected": {}}, []),
        ({}, []),
    ],
)
def test_columns_decide(row, handlers):
    assert found(row) == handlers


def test_one_of_the_first_rows_is_enough():
    assert found({"conversations": []}, {"conversations": None}, SHAREGPT_ROW) == [SHAREGPT]


def test_what_was_named_counts():
    assert found({"q": "Hi", "a": "Hello"}, prompt="q", response="a") == [ALPACA]
    assert found(ALPACA_ROW, prompt="q") == []
    assert found({"chat": OPENAI_ROW["messages"]}, messages="chat") == [OPENAI]
    assert found({"chat": SHAREGPT_ROW["conversations"]}, messages="chat") == [SHAREGPT]
    tags = {"role_tag": "role", "content_tag": "content"}
    assert found({"conversations": OPENAI_ROW["messages"]}, tags=tags) == [SHAREGPT]
    assert found(ALPACA_ROW | TEXT_ROW, json_keys=("text",)) == [TEXT]
    assert found(ALPACA_ROW, json_keys=("instruction", "output")) == [TEXT]
    assert found(ALPACA_ROW | TEXT_ROW, query="input") == [ALPACA]
    assert found(TEXT_ROW, json_keys=("text",), prompt="text") == []


def test_the_reason_names_the_columns():
    (match,) = detect([ALPACA_ROW], HandlerOptions(columns={}))
    assert match.why == "columns 'instruction', 'output'"
    (match,) = detect([SHAREGPT_ROW], HandlerOptions(columns={}))
    assert match.why == "column 'conversations' with messages of 'from', 'value'"


def test_names_are_those_of_components():
    host = PluginHost([])
    for name, alias in DETECTED.items():
        assert host.handler(alias).name == name
    assert {*PARTS} < {*DETECTED}


def test_a_part_that_no_handler_has_is_answered():
    with pytest.raises(ConfigError, match="did you mean 'messages'"):
        check_parts({"messagez": "chat"})
    check_parts({"messages": "chat", "prompt": "q", "tags": {}})
