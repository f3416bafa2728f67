"""A conversation that is too long becomes several: every part a sample that can stand alone, no token unaccounted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import RejectError
from seqpack.core.types import IGNORE_INDEX, Message, Sample, TokenizedSample
from seqpack.text.chat_template import ChatTemplate
from seqpack.text.division import MARKUP, NOTHING_TRAINED, PROMPT, REFUSED, TOO_LONG, Divider, Division
from seqpack.text.encoder import encode
from seqpack.text.labels import choose
from seqpack.text.plain import ControlText

from .test_encoder import END, WORD, conversation, trained_texts, words

COUNTS = st.integers(1, 30)
TURNS = st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=6)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def divider(tokenizer, template, limit: int, *, end: int | None = None, cut_replies: bool = False) -> Divider:
    control = ControlText(tokenizer)
    return Divider(
        lambda sample: control.guard(template.spans(sample)), tokenizer, control, limit, end, cut_replies=cut_replies
    )


def whole(tokenizer, template, sample: Sample) -> TokenizedSample:
    return encode(tokenizer, [list(template.spans(sample))])[0]


def pairs(tokens: TokenizedSample) -> list[tuple[int, int]]:
    return list(zip(tokens.input_ids.tolist(), tokens.labels.tolist(), strict=True))


def balances(division: Division, original: int) -> bool:
    return sum(map(len, division.parts)) + sum(division.lost.values()) == original + division.repeated


def by_trying(tokenizer, template, sample: Sample, limit: int) -> tuple[list[TokenizedSample], int]:
    """The parts, and how many exchanges are in none: every beginning is tried, the earliest one that fits is taken."""
    system = sample.messages[:1] if sample.messages[0].role == "system" else ()
    rest = sample.messages[len(system) :]
    parts: list[TokenizedSample] = []
    end, left_out = len(rest), 0
    while end:
        tried = [whole(tokenizer, template, Sample((*system, *rest[first:end]))) for first in range(0, end, 2)]
        fitting = [number for number, tokens in enumerate(tried) if len(tokens) <= limit]
        if fitting:
            parts.insert(0, tried[fitting[0]])
        left_out += not fitting
        end = 2 * fitting[0] if fitting else end - 2
    return parts, left_out


@given(turns=TURNS, system=st.integers(0, 10), limit=st.integers(20, 160), name=st.sampled_from(["qwen", "alpaca"]))
def test_parts_are_the_longest_that_fit(request, tokenizer, turns, system, limit, name):
    template = request.getfixturevalue(name)
    sample = words(*(count for turn in turns for count in turn), system=system)
    original = whole(tokenizer, template, sample)
    division = divider(tokenizer, template, limit).divide(sample)
    expected, left_out = by_trying(tokenizer, template, sample, limit)
    assert [pairs(part) for part in division.parts] == [pairs(part) for part in expected]
    assert all(len(part) <= limit and part.num_trained for part in division.parts)
    assert balances(division, len(original))
    assert (TOO_LONG in division.lost) == (left_out > 0) and set(division.lost) <= {TOO_LONG, MARKUP}
    if not left_out:
        assert sum(part.num_trained for part in division.parts) == original.num_trained
        trained = [text for part in division.parts for text in trained_texts(tokenizer, part)]
        assert trained == trained_texts(tokenizer, original)


def test_by_hand(tokenizer, qwen):
    """Three exchanges of 2 + 2 words, of which two fit; the system message stands in both parts."""
    sample = words(2, 2, 2, 2, 2, 2, system=3)
    two = len(whole(tokenizer, qwen, words(2, 2, 2, 2, system=3)))
    one = len(whole(tokenizer, qwen, words(2, 2, system=3)))
    original = len(whole(tokenizer, qwen, sample))
    division = divider(tokenizer, qwen, two).divide(sample)
    assert [len(part) for part in division.parts] == [one, two]
    assert all(tokenizer.decode(part.input_ids.tolist()).count(WORD * 3) == 1 for part in division.parts)
    assert division.repeated == one + two - original > 3 and division.lost == {}


def test_a_call_stays_with_its_result(tokenizer, qwen):
    """A part begins where the user speaks, never with what a tool returned to a call that is not there."""
    call = '{"name": "now", "arguments": {}}'
    exchange = [Message("user", WORD * 5), Message("function", call), Message("observation", WORD * 5)]
    exchange.append(Message("assistant", WORD * 5))
    sample = Sample(tuple(exchange * 3))
    one = len(whole(tokenizer, qwen, Sample(tuple(exchange))))
    division = divider(tokenizer, qwen, one + 10).divide(sample)
    assert [len(part) for part in division.parts] == [one] * 3
    assert all("water" in text or "now" in text for part in division.parts for text in trained_texts(tokenizer, part))


@given(turns=TURNS, limit=st.integers(20, 160))
def test_only_the_last_reply_is_trained_on(tokenizer, qwen, turns, limit):
    sample = choose(words(*(count for turn in turns for count in turn)), "last")
    division = divider(tokenizer, qwen, limit).divide(sample)
    assert balances(division, len(whole(tokenizer, qwen, sample)))
    assert len(division.parts) <= 1, "all others would have nothing to train on"
    assert all(trained_texts(tokenizer, part) == [WORD * turns[-1][1] + END] for part in division.parts)
    assert set(division.lost) <= {TOO_LONG, NOTHING_TRAINED}


@given(turns=TURNS, limit=st.integers(20, 160), cut_replies=st.booleans())
def test_the_end_token_of_append_eod_is_in_every_part(tokenizer, qwen, turns, limit, cut_replies):
    end = tokenizer.eos_token_id
    sample = words(*(count for turn in turns for count in turn))
    division = divider(tokenizer, qwen, limit, end=end, cut_replies=cut_replies).divide(sample)
    assert balances(division, len(whole(tokenizer, qwen, sample)) + 1)
    assert all(len(part) <= limit for part in division.parts)
    is_ended = [part.labels[-1] == end for part in division.parts]
    assert all(is_ended) or cut_replies
    assert sum(is_ended) == sum(END in text for part in division.parts for text in trained_texts(tokenizer, part)[-1:])


TEXTS = st.text(st.sampled_from("ab é火🎉👨‍👩‍👧") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120)


@given(user=TEXTS, reply=TEXTS, system=st.none() | TEXTS, limit=st.integers(30, 80))
def test_a_reply_is_split_between_characters_if_asked(tokenizer, qwen, user, reply, system, limit):
    sample = conversation((user, reply), system=system)
    original = whole(tokenizer, qwen, sample)
    division = divider(tokenizer, qwen, limit, cut_replies=True).divide(sample)
    assert balances(division, len(original))
    if not division.parts:
        assert set(division.lost) == {TOO_LONG}
        return
    assert set(division.lost) <= {PROMPT}
    texts = [trained_texts(tokenizer, part) for part in division.parts]
    assert all(len(text) == 1 for text in texts), "the prompt is only context"
    assert "".join(text for (text,) in texts) == reply + END
    assert all(len(part) <= limit and part.num_trained for part in division.parts)
    assert [part.labels[-1] == tokenizer.token_id(END) for part in division.parts] == [False] * (len(texts) - 1) + [
        True
    ]
    header = "<|im_end|>\n<|im_start|>assistant\n"
    for part, (text,) in zip(division.parts, texts, strict=True):
        assert tokenizer.decode(part.input_ids.tolist()).endswith(header + text)


def test_an_exchange_with_calls_of_tools_is_not_cut(tokenizer, qwen):
    call = Message("function", '{"name": "now", "arguments": {}}')
    several = (Message("user", WORD), call, Message("observation", WORD), Message("assistant", WORD * 99))
    for messages in (several, (Message("user", WORD * 99), call)):
        division = divider(tokenizer, qwen, 60, cut_replies=True).divide(Sample(messages))
        assert not division.parts and set(division.lost) == {TOO_LONG}


def test_prompts_that_are_trained_on_are_so_once(tokenizer, qwen):
    template = replace(qwen, train_prompts=True)
    sample = conversation((WORD * 5, WORD * 99))
    division = divider(tokenizer, template, 90, cut_replies=True).divide(sample)
    original = whole(tokenizer, template, sample)
    assert len(division.parts) > 1 and balances(division, len(original))
    labels = [token for part in division.parts for token in part.labels.tolist() if token != IGNORE_INDEX]
    assert labels == original.labels.tolist()


@given(turns=st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=4), limit=st.integers(20, 120))
def test_chat_templates_are_asked_for_every_part(tokenizer, turns, limit):
    template = ChatTemplate(CHATML)
    sample = words(*(count for turn in turns for count in turn), system=4)
    original = whole(tokenizer, template, sample)
    division = divider(tokenizer, template, limit).divide(sample)
    expected, _ = by_trying(tokenizer, template, sample, limit)
    assert [pairs(part) for part in division.parts] == [pairs(part) for part in expected]
    assert balances(division, len(original))


@pytest.mark.parametrize("last", [1, 5])
def test_a_thought_that_only_a_part_has_is_repeated(tokenizer, qwen, last):
    """The template removes thoughts of earlier replies: the whole is shorter than its beginning."""

    class Forgetful:
        def spans(self, sample: Sample):
            *before, reply = sample.messages
            kept = [Message(message.role, message.content.split("</think>")[-1]) for message in before]
            return qwen.spans(Sample((*kept, reply)))

    sample = conversation((WORD, f"<think>{WORD * 50}</think>{WORD}"), (WORD, WORD * last), system=WORD)
    original = whole(tokenizer, Forgetful(), sample)
    repeated = 0
    for limit in range(20, 130):
        division = divider(tokenizer, Forgetful(), limit).divide(sample)
        assert balances(division, len(original)) and min(division.lost.values(), default=1) > 0
        repeated = max(repeated, division.repeated)
    assert repeated > 50


def test_a_template_that_refuses_parts(tokenizer, qwen):
    class WholeOnly:
        def spans(self, sample: Sample):
            if len(sample.messages) < 5:
                raise RejectError("too short")
            return qwen.spans(sample)

    sample = words(9, 9, 9, 9, system=1)
    division = divider(tokenizer, WholeOnly(), 30).divide(sample)
    assert not division.parts and division.lost == {REFUSED: len(whole(tokenizer, qwen, sample))}
