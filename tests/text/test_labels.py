"""Which messages are trained on."""

from __future__ import annotations

import pytest

from seqpack.core.errors import ConfigError
from seqpack.core.types import Message, Sample
from seqpack.options.data import TextOptions
from seqpack.text.encoder import SampleEncoder
from seqpack.text.labels import LabelCheck, choose
from seqpack.text.plain import ControlText

ROWS = Sample(
    (
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c", train=False),
        Message("function", '{"name": "f"}'),
        Message("observation", "d"),
        Message("assistant", "e"),
    ),
    key="f:1",
)


def flags(sample: Sample) -> list[bool | None]:
    return [message.train for message in sample.messages]


def test_every_reply_is_the_templates_choice():
    assert choose(ROWS, "assistant") is ROWS


def test_the_last_reply():
    assert flags(choose(ROWS, "last")) == [None, False, False, False, None, None]
    assert choose(Sample((Message("user", "a"),)), "last").messages == (Message("user", "a"),)


def test_everything_but_what_the_data_leave_out():
    assert flags(choose(ROWS, "all")) == [True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, "assistant"),
        ({"train_on_prompt": True}, "all"),
        ({"mask_history": True}, "last"),
        ({"mask_history": True, "train_on": "last"}, "last"),
    ],
)
def test_flags_with_one_meaning(tokenizer_dir, options, trained):
    assert TextOptions(tokenizer=tokenizer_dir, **options).trained == trained


@pytest.mark.parametrize("options", [{"mask_history": True}, {"train_on": "last"}])
def test_flags_that_disagree(tokenizer_dir, options):
    with pytest.raises(ConfigError) as error:
        _ = TextOptions(tokenizer=tokenizer_dir, train_on_prompt=True, **options).trained
    assert error.value.code == "SP019"


def test_the_check_finds_nothing_in_a_good_template(tokenizer, qwen):
    good = Sample((*ROWS.messages[:2], Message("user", "c"), Message("assistant", "d")))
    check = LabelCheck(
        qwen, tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), tokenizer.token_id("<|im_end|>")
    )
    assert check.findings([good, good]) == []
