"""Whatever a record holds, a handler gives samples or a reason; it never fails, and never loses a text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Sample
from seqpack.handlers.alpaca import AlpacaHandler
from seqpack.handlers.detect import detect
from seqpack.handlers.openai import OpenAIHandler
from seqpack.handlers.sharegpt import SharegptHandler
from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import HandlerOptions, make_handler
from seqpack.testing.handlers import find_dialogues

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
    check_dialogues(handler, record, samples)


def check_dialogues(handler, record, samples):
    (dialogue,) = find_dialogues(handler, [record])
    if dialogue is not None:
        assert samples == [Sample(tuple(map(Message, *dialogue)))]


ODD = st.sampled_from(["", "Hi", None, 0, [], {}])
ALPACA = st.fixed_dictionaries(
    {"instruction": ODD, "output": ODD}, optional={"input": ODD, "system": ODD, "history": ODD}
)
SHAREGPT = st.fixed_dictionaries(
    {
        "conversations": st.lists(
            st.fixed_dictionaries(
                {"from": st.sampled_from(["human", "gpt", "system", "x", None]), "value": ODD}, optional={"train": ODD}
            ),
            max_size=4,
        )
    },
    optional={"system": ODD, "tools": ODD, "chosen": ODD, "rejected": ODD},
)


@given(record=ALPACA | SHAREGPT, named=st.booleans())
def test_dialogues_are_what_calling_gives(record, named):
    handler = SharegptHandler({}) if "conversations" in record else AlpacaHandler({"query": "input"} if named else {})
    try:
        samples = list(handler(record))
    except RejectError:
        samples = []
    check_dialogues(handler, record, samples)


def test_usual_rows_are_dialogues():
    roles = ("user", "assistant")
    row, other = (
        {"instruction": "Hi", "output": "Ho", "input": None},
        {"instruction": "Hi", "input": "you", "output": "Ho"},
    )
    assert AlpacaHandler({}).dialogues([row, other]) == [(roles, ("Hi", "Ho")), (roles, ("Hi\nyou", "Ho"))]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    assert SharegptHandler({}).dialogues([{"conversations": turns}]) == [(roles, ("Hi", "Ho"))]
    assert SharegptHandler({}).dialogues([{"conversations": turns[::-1]}, {"conversations": turns[:1]}]) == [None] * 2


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
