"""Whatever a record holds, a handler gives samples or a reason; it never fails, and never loses a text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqpack.core.errors import RejectError
from seqpack.core.types import Sample
from seqpack.handlers.detect import detect
from seqpack.handlers.openai import OpenAIHandler
from seqpack.handlers.sharegpt import SharegptHandler
from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import HandlerOptions, make_handler

WORDS = [
    "instruction", "input", "output", "system", "history", "conversations", "messages", "tools", "text", "from",
    "value", "role", "content", "human", "gpt", "function_call", "observation", "user", "assistant", "tool",
    "tool_calls", "function", "name", "arguments", "type", "reasoning_content", "train", "weight",
    "chosen", "rejected", "{}", "[1]",
]  # fmt: skip
KEYS = st.sampled_from(WORDS) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TURN = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
RECORDS = st.dictionaries(KEYS, VALUES | st.lists(TURN, max_size=4), max_size=6)
HANDLERS = [component for component in PluginHost([]).handlers if component.name != "LlamaFactoryInstructionHandler"]


@pytest.mark.parametrize("component", HANDLERS, ids=lambda component: component.name)
@given(record=RECORDS)
@example(record={"messages": [{"role": "user", "content": [None]}], "conversations": [{"from": [], "value": {}}]})
def test_any_record_is_read_or_rejected(component, record):
    handler = make_handler(component, HandlerOptions(columns={}))
    reason, samples = "", []
    try:
        samples = list(handler(record))
    except RejectError as error:
        reason = error.reason
    assert bool(samples) != bool(reason)


@given(rows=st.lists(RECORDS, max_size=3))
def test_any_rows_can_be_looked_at(rows):
    assert isinstance(detect(rows, HandlerOptions(columns={})), list)


TEXTS = st.text(min_size=1, max_size=20)


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_both_forms_of_a_conversation_give_the_same_sample(texts):
    pairs = [pair for user, reply in texts for pair in (("user", user), ("assistant", reply))]
    names = {"user": "human", "assistant": "gpt"}
    sharegpt = {"conversations": [{"from": names[role], "value": text} for role, text in pairs]}
    openai = {"messages": [{"role": role, "content": text} for role, text in pairs]}
    made: list[Sample] = [*SharegptHandler({})(sharegpt), *OpenAIHandler({})(openai)]
    assert made[0] == made[1]
    assert [(message.role, message.content) for message in made[0].messages] == pairs


def test_records_are_only_read():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]}
    record = {"messages": [{"role": "user", "content": "Hi"}, call], "tools": [{"name": "now"}]}
    before = repr(record)
    list(OpenAIHandler({})(record))
    assert repr(record) == before
