"""Rows as MindSpeed-LLM reads them; whole files are compared in tests/pipeline/test_mindspeed_reference.py."""

from __future__ import annotations

import pytest
from hypothesis import given

from seqpack.core.errors import ConfigError, RejectError, UncoveredError
from seqpack.handlers.mindspeed import (
    AlpacaReader,
    OpenAIReader,
    PairHandler,
    QuestionHandler,
    SampleHandler,
    SharegptReader,
)
from seqpack.handlers.mindspeed_text import AlpacaTextHandler, PrompterHandler, SharegptTextHandler, prompter_text

from .test_robustness import RECORDS

COLUMNS = frozenset({"instruction", "input", "output", "conversations", "messages", "tools", "chosen", "rejected"})


def known() -> frozenset[str]:
    return COLUMNS


HANDLERS = {
    "alpaca": SampleHandler(AlpacaReader({"system": "system", "history": "history"}, known)),
    "sharegpt": SampleHandler(SharegptReader({"tools": "tools", "system": "system"}, known)),
    "openai": SampleHandler(OpenAIReader({}, known)),
    "alpaca pairs": PairHandler(AlpacaReader({}, known, ranking=True)),
    "sharegpt pairs": PairHandler(SharegptReader({}, known, ranking=True)),
    "questions": QuestionHandler(AlpacaReader({}, known), known, ("labels", "text")),
    "alpaca text": AlpacaTextHandler(),
    "sharegpt text": SharegptTextHandler(("conversations",), known),
    "prompter": PrompterHandler(known, "GeneralInstructionHandler"),
    "belle": PrompterHandler(known, "BelleMultiTurnInstructionHandler"),
}


@pytest.mark.parametrize("name", HANDLERS)
@given(record=RECORDS)
def test_any_record_is_read_left_out_or_refused(name, record):
    try:
        samples = list(HANDLERS[name](record))
    except (RejectError, UncoveredError):
        return
    assert len(samples) == 1


def test_a_column_that_only_this_row_lacks_is_null():
    (sample,) = HANDLERS["alpaca"]({"instruction": "Hi", "output": "Hello", "system": None, "history": None})
    assert [message.content for message in sample.messages] == ["Hi", "Hello"]
    with pytest.raises(RejectError) as caught:
        list(HANDLERS["alpaca"]({"instruction": "Hi", "output": "Hello"}))
    assert caught.value.missing_column


def test_several_outputs_become_an_empty_exchange():
    row = {"instruction": "Hi", "output": ["a", "b"], "system": "Be kind.", "history": []}
    (sample,) = HANDLERS["alpaca"](row)
    assert [(message.role, message.content) for message in sample.messages] == [
        ("system", "Be kind."), ("user", ""), ("assistant", ""),
    ]  # fmt: skip


def test_of_several_rejected_answers_the_second_counts():
    (pair,) = HANDLERS["alpaca pairs"]({"instruction": "q", "chosen": ["a"], "rejected": ["b", "c"]})
    assert [pair.chosen.messages[-1].content, pair.rejected.messages[-1].content] == ["a", "c"]


def test_an_empty_input_is_written_as_none():
    (sample,) = HANDLERS["alpaca text"]({"instruction": "Add.", "input": "", "output": None})
    assert "### Instruction:\nAdd.\n\n###None\n\n### Response: ASSISTANT: None" in sample.texts[0]


def test_belle_has_its_turns_in_one_text():
    row = {"instruction": "Human: Hi\nAssistant: Hello\nHuman: And now?\nAssistant:", "output": " This.\n"}
    (sample,) = HANDLERS["belle"](row)
    assert [message.content for message in sample.messages] == ["Hi", "Hello", "And now?", "This."]
    text, beginning = prompter_text(sample.messages)
    assert text == beginning + "This.\n"
    assert text.count("### Response:\n") == 2


@pytest.mark.parametrize("reader", [AlpacaReader, SharegptReader, OpenAIReader])
def test_unknown_parts_are_errors(reader):
    with pytest.raises(ConfigError, match="no part 'pormpt'"):
        reader({"pormpt": "a"}, known)
