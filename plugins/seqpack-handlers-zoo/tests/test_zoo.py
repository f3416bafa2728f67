"""The contract suite of seqpack, and what is special about each data set."""

import pytest
from seqpack_handlers_zoo.belle import BelleMultiTurnInstructionHandler
from seqpack_handlers_zoo.code import LeetcodePythonInstructionHandler, StackOverflowPythonPretrainHandler
from seqpack_handlers_zoo.moss import MOSSInstructionHandler, MOSSMultiTurnHandler

from seqpack.api import ConfigError, Message, RejectError
from seqpack.testing import HandlerContract

BELLE = {"instruction": "Human:Hi\nAssistant:Hello\nHuman:And now?\nAssistant:", "input": "", "output": "Now this."}
TURN = {"Human": "<|Human|>: Hi<eoh>\n", "MOSS": "<|MOSS|>: Hello<eom>\n", "Commands": "<|Commands|>: None<eoc>\n"}
SECOND = {"Human": "<|Human|>: Bye<eoh>\n", "MOSS": "<|MOSS|>: Goodbye<eom>\n"}
MOSS = {"chat": {"turn_1": TURN, "turn_2": SECOND, "turn_3": None}}
LEETCODE = {"code_with_problem": "Add.\n\n```python\n1 + 1\n```", "code_only": "1 + 1", "explanation_only": "It adds."}
STACK = {"title": "How to add?", "question_body": "I want 2.", "answer_body": "1 + 1"}


class TestBelle(HandlerContract):
    target = "seqpack_handlers_zoo.belle:BelleMultiTurnInstructionHandler"
    records = (BELLE, BELLE | {"instruction": "Human: Hi\nAssistant:"}, BELLE | {"instruction": "Human: Hi"})
    unusable = (
        BELLE | {"output": ""},
        BELLE | {"instruction": "Hi"},
        BELLE | {"instruction": "Say: Human: Hi"},
        BELLE | {"instruction": "Human: Hi\nAssistant: Hello\n"},
        BELLE | {"instruction": "Human: \nAssistant:"},
        BELLE | {"instruction": "Human: Hi\nHuman: Hi\nAssistant:"},
    )


class TestMossMultiTurn(HandlerContract):
    target = "seqpack_handlers_zoo.moss:MOSSMultiTurnHandler"
    records = (MOSS,)
    unusable = ({"chat": {}}, {"chat": [TURN]}, {"chat": {"turn_1": "Hi"}}, {"chat": {"turn_1": {"Human": "Hi"}}})


class TestMoss(HandlerContract):
    target = "seqpack_handlers_zoo.moss:MOSSInstructionHandler"
    records = (MOSS,)
    unusable = ({"chat": {"first": TURN}}, {"chat": {"turn_1": TURN | {"MOSS": "<|MOSS|>: <eom>\n"}}})


class TestLeetcode(HandlerContract):
    target = "seqpack_handlers_zoo.code:LeetcodePythonInstructionHandler"
    records = (LEETCODE, LEETCODE | {"explanation_only": None})
    unusable = (LEETCODE | {"code_with_problem": "```python\n```"}, LEETCODE | {"code_only": 3})


class TestStackOverflow(HandlerContract):
    target = "seqpack_handlers_zoo.code:StackOverflowPythonPretrainHandler"
    records = (STACK,)
    unusable = (STACK | {"answer_body": ""},)


def said(sample):
    return [(message.role, message.content) for message in sample.messages]


def test_belle_turns_are_split():
    (sample,) = BelleMultiTurnInstructionHandler({})(BELLE)
    assert said(sample) == [("user", "Hi"), ("assistant", "Hello"), ("user", "And now?"), ("assistant", "Now this.")]


def test_moss_marks_are_gone():
    (sample,) = MOSSMultiTurnHandler({})(MOSS)
    assert said(sample) == [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Goodbye")]


def test_moss_turns_are_in_the_order_of_their_numbers():
    (sample,) = MOSSMultiTurnHandler({})({"chat": {"turn_10": SECOND, "turn_2": TURN}})
    assert said(sample)[0] == ("user", "Hi")


def test_every_moss_turn_is_a_sample_that_trains_on_its_reply():
    first, second = MOSSInstructionHandler({})(MOSS)
    assert first.messages == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert [message.train for message in second.messages] == [None, False, None, None]


def test_leetcode_is_problem_then_code_and_explanation():
    (sample,) = LeetcodePythonInstructionHandler({})(LEETCODE)
    assert said(sample) == [("user", "Add."), ("assistant", "1 + 1\nIt adds.")]


def test_stack_overflow_is_one_text():
    (sample,) = StackOverflowPythonPretrainHandler({})(STACK)
    assert sample.texts == ("In python, How to add?\n### Question:\nI want 2.\n### Response:\n1 + 1\n",)


def test_columns_cannot_be_renamed():
    with pytest.raises(ConfigError, match="--map-keys"):
        MOSSMultiTurnHandler({"messages": "chat"})


def test_a_missing_column_is_marked():
    with pytest.raises(RejectError) as error:
        list(MOSSMultiTurnHandler({})({"turns": []}))
    assert error.value.missing_column
