"""The contract suites of seqpack, and what is ACME's own."""

import numpy as np
import pytest
from seqpack_acme.longest_first import LongestFirst
from seqpack_acme.tickets import TicketHandler
from seqpack_acme.weights import ACME

from seqpack.api import RejectError
from seqpack.testing import HandlerContract, StrategyContract, TemplateContract

TICKET = {"subject": "Rocket skates", "body": "They do not stop.", "answer": "Please use the parachute."}


class TestTickets(HandlerContract):
    target = "seqpack_acme.tickets:TicketHandler"
    records = (TICKET, TICKET | {"body": ""})
    unusable = (TICKET | {"answer": " "}, {"subject": "Anvil", "body": "Too light."})


class TestAcmeChat(TemplateContract):
    target = "seqpack_acme:acme-chat.yaml"
    end_of_turn = "<|im_end|>"


class TestLongestFirst(StrategyContract):
    target = "seqpack_acme.longest_first:LongestFirst"


def test_subject_and_body_are_the_question():
    (sample,) = TicketHandler({})(TICKET)
    assert sample.messages[0].content == "Rocket skates\n\nThey do not stop."


def test_columns_can_have_other_names():
    (sample,) = TicketHandler({"answer": "reply"})({"subject": "Anvil", "body": "", "reply": "Sorry."})
    assert [message.content for message in sample.messages] == ["Anvil", "Sorry."]


def test_a_ticket_without_an_answer_is_counted_as_such():
    with pytest.raises(RejectError, match="without an answer"):
        list(TicketHandler({})(TICKET | {"answer": ""}))


def test_a_short_sample_fills_the_gap_a_long_one_left():
    plan = LongestFirst().plan(np.array([2, 5, 6, 3]), seq_length=8, rng=np.random.default_rng(0))
    assert sorted(plan.fill().tolist()) == [8, 8]


def test_the_bias_is_among_the_parameters():
    assert ACME.has("self_attention.linear_proj.bias")
    assert not ACME.has_experts
