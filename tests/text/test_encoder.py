"""Ids and labels of rendered samples, and what is left of one that is too long."""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.types import IGNORE_INDEX, Message, Sample, Span, TokenizedSample, join_samples
from seqpack.text.encoder import encode, truncate, with_end, with_ends

END = "<|im_end|>"
WORD = " water"  # one token, so that a text of n words has n tokens
TEXTS = st.text(max_size=30)


def conversation(*turns: tuple[str, str], system: str | None = None) -> Sample:
    messages = [] if system is None else [Message("system", system)]
    for user, reply in turns:
        messages += [Message("user", user), Message("assistant", reply)]
    return Sample(tuple(messages))


def words(*counts: int, system: int = 0) -> Sample:
    """A conversation whose texts have so many tokens: user, reply, user, reply, ..."""
    turns = [(WORD * user, WORD * reply) for user, reply in zip(counts[::2], counts[1::2], strict=True)]
    return conversation(*turns, system=WORD * system)


def spans_of(template, sample: Sample) -> list[Span]:
    return list(template.spans(sample))


def encode_one(tokenizer, spans: list[Span]) -> TokenizedSample:
    (tokens,) = encode(tokenizer, [spans])
    return tokens


def trained_texts(tokenizer, tokens: TokenizedSample) -> list[str]:
    """Text of every run of trained tokens."""
    pairs = zip(tokens.input_ids.tolist(), tokens.labels.tolist(), strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
    return [tokenizer.decode([token for token, _ in run]) for is_trained, run in runs if is_trained]


def test_a_word_is_a_token(tokenizer, qwen):
    assert len(tokenizer.encode([WORD * 7])[0]) == 7
    assert (
        len(encode_one(tokenizer, spans_of(qwen, words(3, 4))))
        == len(encode_one(tokenizer, spans_of(qwen, words(1, 1)))) + 5
    )


@given(st.lists(st.lists(st.tuples(TEXTS, st.booleans()), max_size=5), max_size=4))
def test_every_span_is_encoded_as_if_alone(tokenizer, samples):
    rendered = [[Span(text, train) for text, train in sample] for sample in samples]
    for spans, tokens in zip(rendered, encode(tokenizer, rendered), strict=True):
        alone = [tokenizer.encode([span.text])[0] for span in spans]
        assert tokens.input_ids.tolist() == [token for ids in alone for token in ids]
        labels = [ids if span.train else [IGNORE_INDEX] * len(ids) for span, ids in zip(spans, alone, strict=True)]
        assert tokens.labels.tolist() == [label for part in labels for label in part]
        assert tokens.input_ids.dtype == tokens.labels.dtype == np.int32


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.none() | TEXTS)
def test_every_reply_is_trained_with_its_end_token_and_nothing_else(tokenizer, qwen, turns, system):
    tokens = encode_one(tokenizer, spans_of(qwen, conversation(*turns, system=system)))
    assert trained_texts(tokenizer, tokens) == [reply + END for _, reply in turns]


def test_alpaca_replies_end_with_the_end_of_text_token(tokenizer, alpaca):
    tokens = encode_one(tokenizer, spans_of(alpaca, conversation(("Hi", "Hello!"), ("And?", "So."))))
    assert trained_texts(tokenizer, tokens) == ["Hello!<|endoftext|>", "So.<|endoftext|>"]
    assert tokens.labels[-1] == tokenizer.eos_token_id


def test_an_elided_end_is_the_label_of_the_next_token(tokenizer):
    end, end_id = "<|endoftext|>", tokenizer.eos_token_id
    first = [Span(WORD, False, 0), Span(WORD, True, 0, (0, 6)), Span(end, True, 0, elided=True)]
    rest = [Span(WORD * 2, False, 1), Span(WORD, True, 1, (0, 6)), Span(end, True, 1, elided=True)]
    (word,) = tokenizer.encode([WORD])[0]
    tokens = encode_one(tokenizer, first + rest)
    assert tokens.input_ids.tolist() == [word] * 5 + [end_id]
    assert tokens.labels.tolist() == [IGNORE_INDEX, word, end_id, IGNORE_INDEX, word, end_id]
    cut = truncate(tokenizer, first + rest, 5)
    assert cut is not None and cut.labels.tolist() == [IGNORE_INDEX, word, end_id], "it stands where the sample ends"
    untrained = [Span(WORD, False, 0), Span(WORD, False, 0), Span(end, False, 0, elided=True), *rest]
    assert encode_one(tokenizer, untrained).labels.tolist() == [IGNORE_INDEX] * 4 + [word, end_id]
    everything = [Span(WORD, True, 0), Span(end, True, 0, elided=True), Span(WORD, True, 1)]
    assert encode_one(tokenizer, everything).labels.tolist() == [word, word], "a trained token keeps its own label"


def test_no_samples(tokenizer):
    assert len(encode(tokenizer, [])) == 0


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
    prompt = system + user
    if limit == len(whole):
        assert (left_system, left_user, left_reply) == (system, user, reply)
    elif 2 * reply < budget:
        assert left_reply == reply
    elif 2 * prompt < budget:
        assert left_system + left_user == prompt
    else:
        assert left_reply == max(budget * reply // (prompt + reply), 1)
    assert left_system == min(system, left_system + left_user), "the user's text is cut before the system's"
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


TOKENS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6)


@given(st.lists(TOKENS, max_size=6))
def test_ends_of_many_samples_are_those_of_each(rows):
    samples = []
    for row in rows:
        ids = np.array([token for token, _ in row], np.int32)
        is_trained = np.array([trained for _, trained in row], np.bool_)
        samples.append(TokenizedSample(ids, np.where(is_trained, ids, np.int32(IGNORE_INDEX))))
    batch, num_ended = with_ends(join_samples(samples), 0)
    expected = [with_end(sample, 0) if sample.num_trained else sample for sample in samples]
    assert [(a.input_ids.tolist(), a.labels.tolist()) for a in batch] == [
        (b.input_ids.tolist(), b.labels.tolist()) for b in expected
    ]
    assert batch.input_ids.dtype == batch.labels.dtype == np.int32
    assert num_ended == sum(sample.num_trained > 0 and sample.input_ids[-1] == 0 for sample in samples)
