"""What is left of a sample that is too long."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.types import IGNORE_INDEX, Message, Sample, Span, TokenizedSample
from seqpack.text.fit import _borders, truncate

from .test_encoder import END, TEXTS, WORD, conversation, encode_one, spans_of, trained_texts, words

SHAPE = re.compile(
    r"<\|im_start\|>system\n(.*)<\|im_end\|>\n<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>",
    re.DOTALL,
)


def parts(tokenizer, tokens: TokenizedSample) -> list[int]:
    """Tokens left of system, user and reply of a sample with one turn; fails if a header is damaged."""
    match = SHAPE.fullmatch(tokenizer.decode(tokens.input_ids.tolist()))
    assert match, tokenizer.decode(tokens.input_ids.tolist())
    for text in match.groups():
        assert text == WORD * (len(text) // len(WORD))
    return [len(text) // len(WORD) for text in match.groups()]


COUNTS = st.integers(1, 40)


@given(system=COUNTS, user=COUNTS, reply=COUNTS, share=st.floats(0, 1))
def test_one_long_turn_is_cut_inside_its_texts(tokenizer, qwen, system, user, reply, share):
    spans = spans_of(qwen, words(user, reply, system=system))
    whole = encode_one(tokenizer, spans)
    markup = len(whole) - system - user - reply
    limit = markup + int(share * (len(whole) - markup))
    budget = limit - markup
    tokens = truncate(tokenizer, spans, limit)
    if budget < 2:
        assert tokens is None
        return
    assert tokens is not None and len(tokens) == limit
    left_system, left_user, left_reply = parts(tokenizer, tokens)
    if budget - system >= 2:
        budget, prompt, kept_prompt = budget - system, user, left_user
        assert left_system == system
    else:
        prompt, kept_prompt = system + user, left_system + left_user
        assert left_system == min(system, left_system + left_user), "the user's text is cut before the system's"
    if limit == len(whole):
        assert (left_system, left_user, left_reply) == (system, user, reply)
    elif 2 * reply < budget:
        assert left_reply == reply
    elif 2 * prompt < budget:
        assert kept_prompt == prompt
    else:
        assert left_reply == max(budget * reply // (prompt + reply), 1)
    assert trained_texts(tokenizer, tokens) == [WORD * left_reply + END]


@given(turns=st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=4), share=st.floats(0.01, 0.99))
def test_a_conversation_is_cut_between_its_turns(tokenizer, qwen, turns, share):
    counts = [count for turn in turns for count in turn]
    limit = int(share * len(encode_one(tokenizer, spans_of(qwen, words(*counts)))))
    tokens = truncate(tokenizer, spans_of(qwen, words(*counts)), limit)
    shorter = [encode_one(tokenizer, spans_of(qwen, words(*counts[: 2 * kept]))) for kept in range(1, len(turns))]
    fitting = [sample for sample in shorter if len(sample) <= limit]
    if fitting:
        assert tokens is not None
        assert tokens.input_ids.tolist() == fitting[-1].input_ids.tolist()
        assert tokens.labels.tolist() == fitting[-1].labels.tolist()
    else:
        first = truncate(tokenizer, spans_of(qwen, words(*counts[:2])), limit)
        assert (tokens is None) == (first is None)
        assert tokens is None or first is None or tokens.input_ids.tolist() == first.input_ids.tolist()


@given(user=TEXTS, reply=TEXTS.filter(bool), limit=st.integers(0, 120))
def test_whatever_the_texts_are(tokenizer, qwen, user, reply, limit):
    spans = spans_of(qwen, conversation((user, reply)))
    tokens = truncate(tokenizer, spans, limit)
    if tokens is None:
        assert limit < len(encode_one(tokenizer, spans))
        return
    assert len(tokens) <= limit and tokens.num_trained > 0
    end = tokenizer.token_id(END)
    assert tokens.input_ids[-1] == tokens.labels[-1] == end
    assert tokens.input_ids.tolist().count(end) == 3
    is_trained = tokens.labels != IGNORE_INDEX
    assert np.array_equal(tokens.labels[is_trained], tokens.input_ids[is_trained])


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_no_room_is_no_sample(tokenizer, qwen, limit):
    assert truncate(tokenizer, spans_of(qwen, words(50, 50)), limit) is None


def test_turns_that_would_leave_nothing_to_train_on_are_no_sample(tokenizer, qwen):
    first = (Message("user", WORD), Message("assistant", WORD * 3, train=False))
    second = (Message("user", WORD), Message("assistant", WORD * 50))
    spans = spans_of(qwen, Sample((*first, *second)))
    whole = encode_one(tokenizer, spans)
    assert truncate(tokenizer, spans, len(whole) - 1) is None


def test_a_template_without_marked_texts_is_not_cut(tokenizer):
    spans = [Span(WORD * 10, train=False), Span(WORD * 10, train=True)]
    assert truncate(tokenizer, spans, 15) is None


TEXTS_OF_MANY_BYTES = st.text(st.sampled_from("ab 火🎉é👨‍👩") | st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    system=TEXTS_OF_MANY_BYTES.filter(bool),
    user=TEXTS_OF_MANY_BYTES,
    reply=TEXTS_OF_MANY_BYTES.filter(bool),
    limit=st.integers(20, 120),
)
def test_no_character_is_cut_in_two(tokenizer, qwen, system, user, reply, limit):
    """What is left of a text is a beginning of it, wherever a character takes several tokens."""
    tokens = truncate(tokenizer, spans_of(qwen, conversation((user, reply), system=system)), limit)
    if tokens is None:
        return
    match = SHAPE.fullmatch(tokenizer.decode(tokens.input_ids.tolist()))
    assert match
    left_system, left_user, left_reply = match.groups()
    assert system.startswith(left_system) and user.startswith(left_user) and reply.startswith(left_reply)
    assert left_reply, "an empty reply would teach to say nothing"


def test_a_reply_of_which_no_character_fits_is_no_sample(tokenizer, qwen):
    (emoji,) = tokenizer.encode(["\N{PARTY POPPER}"])
    assert len(emoji) == 4
    spans = spans_of(qwen, conversation((WORD, "\N{PARTY POPPER}" * 9), system=WORD))
    markup = len(encode_one(tokenizer, spans_of(qwen, conversation((WORD, ""), system=WORD))))
    assert [truncate(tokenizer, spans, markup + room) is None for room in (2, 3, 4, 9)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("offsets", "borders"),
    [
        ([(0, 1), (1, 3), (3, 4)], (0, 1, 2, 3)),
        ([(0, 1), (0, 1), (1, 2)], (0, 2, 3)),  # byte-level BPE: both tokens name the whole character
        ([(0, 2), (1, 2), (2, 3)], (0, 2, 3)),  # a blank, and the first byte of what follows
        ([(0, 0), (0, 0), (0, 1), (1, 2)], (0, 3, 4)),  # byte fallback: only the last token has a width
        ([], (0,)),
    ],
)
def test_borders_of_characters(offsets, borders):
    assert _borders(offsets) == borders


def test_a_trained_prompt_does_not_take_the_room_of_the_reply(tokenizer, qwen):
    template = replace(qwen, train_prompts=True)
    spans = list(template.spans(conversation((WORD * 60, WORD * 10), system=WORD)))
    whole = encode_one(tokenizer, spans)
    tokens = truncate(tokenizer, spans, len(whole) - 20)
    assert tokens is not None and parts(tokenizer, tokens) == [1, 40, 10]
