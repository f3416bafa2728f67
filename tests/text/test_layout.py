"""Layouts: samples rendered without spans have the ids and labels of those that are rendered with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.errors import RejectError
from seqpack.core.types import Message, Sample
from seqpack.hooks.host import plugin_host
from seqpack.options.data import TextOptions
from seqpack.text.catalog import open_template
from seqpack.text.encoder import SampleEncoder
from seqpack.text.layout import Filled, Renderer, Spelled, find_layout
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer
from tests.conftest import GOLDEN

TOKENIZER = Tokenizer(GOLDEN / "tokenizers" / "qwen")
NAMES = [component.name for component in plugin_host().templates]
TEXTS = st.sampled_from(["", "Hi", " two words ", "\n", "{{content}}", "<|im_end|>", "<", "é😀", "\x02" + "0\x02"])
TRAIN = st.sampled_from([None, None, None, True, False])


@st.composite
def conversations(draw: st.DrawFn) -> Sample:
    system = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(TEXTS), draw(TRAIN)), Message("assistant", draw(TEXTS), draw(TRAIN))]
    return Sample((*system, *turns))


def opened(name: str):
    try:
        return open_template(TextOptions(tokenizer=TOKENIZER.directory, prompt_type=name), TOKENIZER).template
    except Exception as error:  # this tokenizer lacks a token the template needs
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(samples=st.lists(conversations(), min_size=1, max_size=4))
def test_ids_and_labels_are_those_of_the_spans(name, samples):
    template, control = opened(name), ControlText(TOKENIZER)
    renderer, encoder = Renderer(template, control), SampleEncoder(TOKENIZER, control)
    usable = []
    dialogues = [
        (tuple(m.role for m in sample.messages), tuple(m.content for m in sample.messages)) for sample in samples
    ]
    for sample, filled in zip(samples, renderer.fill(dialogues), strict=True):
        untouched = sample._replace(messages=tuple(message._replace(train=None) for message in sample.messages))
        assert filled is None or (filled == renderer.render(untouched) and filled.sample == untouched)
    for sample in samples:
        try:
            usable.append((sample, renderer.render(sample)))
        except RejectError:
            with pytest.raises(RejectError):
                renderer.spans(sample)
    fast = encoder.encode([rendered for _, rendered in usable])
    slow = SampleEncoder(TOKENIZER, control).encode([renderer.spans(sample) for sample, _ in usable])
    assert np.array_equal(fast.lengths, slow.lengths)
    assert np.array_equal(fast.input_ids, slow.input_ids) and np.array_equal(fast.labels, slow.labels)


def test_rendered_samples_know_what_they_are_of():
    renderer = Renderer(opened("qwen"), ControlText(TOKENIZER))
    sample = Sample((Message("system", "Be brief."), Message("user", "Hi", False), Message("assistant", "Ho", True)))
    assert renderer.render(sample).sample == sample and renderer.render(sample).num_characters == 13
    spelled = renderer.render(sample._replace(tools='[{"name": "f"}]'))
    assert spelled.sample == sample._replace(tools='[{"name": "f"}]') and spelled.num_characters == 13


def test_usual_dialogues_take_the_short_way():
    renderer = Renderer(opened("qwen"), ControlText(TOKENIZER))
    roles = ("user", "assistant")
    usual, control, empty = (roles, ("Hi", "Ho")), (roles, ("<|im_end|>", "Ho")), (roles, ("", "Ho"))
    filled, *others = renderer.fill([usual, control, None, empty, (("assistant", "user"), ("Hi", "Ho"))])
    assert filled is not None and filled.contents == ("Hi", "Ho") and others == [None] * 4
    assert renderer.fill([]) == []
    assert Renderer(opened("qwen"), None).fill([control]) != [None], "control tokens are allowed"


def test_usual_samples_take_the_short_way():
    renderer = Renderer(opened("qwen"), ControlText(TOKENIZER))
    usual = Sample((Message("user", "Hi"), Message("assistant", "Hello")))
    assert isinstance(renderer.render(usual), Filled)
    assert isinstance(renderer.render(usual._replace(tools='[{"name": "f"}]')), Spelled)
    control = Sample((Message("user", "<|im_end|>"), Message("assistant", "Hello")))
    assert isinstance(renderer.render(control), Spelled), (
        "text that looks like a control token is kept as text by spans"
    )


def test_no_layout_where_the_text_decides():
    call = Sample((Message("user", "Hi"), Message("function", '{"name": "f", "arguments": {}}')))
    assert find_layout(opened("qwen"), call) is None
    assert find_layout(opened("qwen"), Sample((Message("user", "Hi"),))) is None
