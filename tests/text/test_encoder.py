"""Ids and labels of rendered samples, and what is left of one that is too long."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.types import IGNORE_INDEX, Message, Sample, Span, TokenizedSample, join_samples
from seqpack.text.encoder import encode, with_end, with_ends
from seqpack.text.fit import truncate

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
