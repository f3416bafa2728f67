"""Pretraining text out of columns, Alpaca rows and conversations."""

from __future__ import annotations

import pytest

from seqpack.core.errors import ConfigError, RejectError
from seqpack.handlers.pretrain import AlpacaPretrainHandler, GeneralPretrainHandler, SharegptPretrainHandler
from seqpack.hooks.specs import HandlerOptions


def options(*json_keys: str, **columns: str) -> HandlerOptions:
    return HandlerOptions(columns=columns, json_keys=json_keys)


def test_text_is_taken_as_it_is():
    handler = GeneralPretrainHandler.from_options(options())
    (sample,) = handler({"text": " Hi \n", "id": 3})
    assert handler.text_keys == ("text",) and sample.texts == (" Hi \n",)


def test_several_columns_keep_their_places():
    handler = GeneralPretrainHandler.from_options(options("b", "a"))
    assert handler.text_keys == ("b", "a")
    assert next(handler({"a": "A", "b": None})).texts == ("", "A")


@pytest.mark.parametrize(
    ("row", "reason", "missing"),
    [
        ({"text": ""}, "empty 'text'", False),
        ({"text": None}, "empty 'text'", False),
        ({"text": ["Hi"]}, "'text' is list, not text", False),
        ({"content": "Hi"}, "no column 'text'", True),
    ],
)
def test_what_is_no_text_is_rejected(row, reason, missing):
    with pytest.raises(RejectError) as error:
        list(GeneralPretrainHandler.from_options(options())(row))
    assert (error.value.reason, error.value.missing_column) == (reason, missing)


@pytest.mark.parametrize("keys", [("a", "a"), ("a/b",), ("",)])
def test_keys_must_do_as_names_of_files(keys):
    with pytest.raises(ConfigError) as error:
        GeneralPretrainHandler.from_options(options(*keys))
    assert error.value.code == "SP020"


@pytest.mark.parametrize("handler", [GeneralPretrainHandler, SharegptPretrainHandler])
def test_map_keys_are_refused(handler):
    with pytest.raises(ConfigError, match="does not use --map-keys"):
        handler.from_options(options(prompt="question"))


def test_an_alpaca_row_stands_inside_a_fixed_text():
    handler = AlpacaPretrainHandler({})
    (sample,) = handler({"instruction": "Add.", "input": "1 + {x}", "output": "2"})
    assert sample.texts[0].startswith("A chat between a curious user and an artificial intelligence assistant. The ")
    assert sample.texts[0].endswith("### Instruction:\nAdd.\n\n### Input:\n1 + {x}\n\n### Response: ASSISTANT: 2")


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": None}, {}])
def test_an_empty_input_leaves_no_trace(empty):
    (sample,) = AlpacaPretrainHandler({})({"instruction": "Add.", "output": "2"} | empty)
    assert sample.texts[0].endswith("### Instruction:\nAdd.\n\n### Response: ASSISTANT: 2")
    assert "None" not in sample.texts[0]


def test_alpaca_columns_can_be_renamed():
    (sample,) = AlpacaPretrainHandler({"prompt": "q", "response": "a"})({"q": "Add.", "a": "2"})
    assert sample.texts[0].endswith("Add.\n\n### Response: ASSISTANT: 2")
    with pytest.raises(RejectError, match="empty 'a'"):
        list(AlpacaPretrainHandler({"prompt": "q", "response": "a"})({"q": "Add.", "a": ""}))


def test_turns_are_joined():
    handler = SharegptPretrainHandler.from_options(options())
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"role": "assistant", "content": " there"}]}
    assert next(handler(row)).texts == ("Hi there",)


@pytest.mark.parametrize("value", [[], None, [{"from": "human", "value": ""}]])
def test_a_conversation_without_text_is_rejected(value):
    with pytest.raises(RejectError, match="empty 'chat'"):
        list(SharegptPretrainHandler.from_options(options("chat"))({"chat": value}))


def test_a_turn_without_text_is_rejected():
    with pytest.raises(RejectError, match="without 'value'"):
        list(SharegptPretrainHandler.from_options(options())({"conversations": [{"from": "human"}]}))
