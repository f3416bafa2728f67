"""A tokenizer's own chat template: what is trained on, and templates that make it hard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.text.chat_template import ChatTemplate
from seqpack.text.encoder import SampleEncoder, encode
from seqpack.text.labels import LabelCheck
from seqpack.text.plain import ControlText

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "tiny-tokenizer"
HEAD = "{%- for message in messages %}"
OTHERS = "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
ASK = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
PLAIN = f"{HEAD}{OTHERS}{{%- endfor %}}{ASK}"
MARKED = (
    f"{HEAD}{{%- if message.role == 'assistant' %}}{{{{- '<|im_start|>assistant\\n' }}}}{{% generation %}}"
    f"{{{{- message.content + '<|im_end|>' }}}}{{% endgeneration %}}{{{{- '\\n' }}}}{{%- else %}}{OTHERS}{{%- endif %}}"
    f"{{%- endfor %}}{ASK}"
)
# as Qwen3's: the thoughts of earlier replies are removed
FORGETFUL = (
    f"{HEAD}{{%- if message.role == 'assistant' %}}{{%- set said = message.content %}}"
    "{%- if not loop.last %}{%- set said = said.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' + said + '<|im_end|>\\n' }}"
    f"{{%- else %}}{OTHERS}{{%- endif %}}{{%- endfor %}}{ASK}"
)
MESSAGES = (
    Message("system", "Be kind."),
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "assistant"),
    Message("assistant", "a"),
)


def trained(template: ChatTemplate, *messages: Message) -> list[str]:
    return [span.text for span in template.spans(Sample(messages)) if span.train]


@pytest.mark.parametrize(
    ("source", "replies"),
    [(PLAIN, ["Hello!<|im_end|>\n", "a<|im_end|>\n"]), (MARKED, ["Hello!<|im_end|>", "a<|im_end|>"])],
    ids=["prefix differences", "marks"],
)
def test_replies_are_trained_on_with_their_ends(source, replies):
    template = ChatTemplate(source)
    spans = list(template.spans(Sample(MESSAGES)))
    assert "".join(span.text for span in spans) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nassistant<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    )
    assert [span.text for span in spans if span.train] == replies
    data = [span.text[slice(*part)] for span in spans for part in span.data_ranges]
    assert data == [message.content for message in MESSAGES]
    assert [span.turn for span in spans if span.train] == [0, 1]


TEXTS = st.text(st.characters(exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3"), max_size=9)


def test_characters_that_stand_for_marks_are_refused():
    with pytest.raises(RejectError, match="reserves"):
        trained(ChatTemplate(MARKED), Message("user", "\ufdd0"), MESSAGES[2])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.booleans())
def test_whatever_the_texts_are(turns, marked):
    messages = [message for user, reply in turns for message in (Message("user", user), Message("assistant", reply))]
    ending = "<|im_end|>" if marked else "<|im_end|>\n"
    assert trained(ChatTemplate(MARKED if marked else PLAIN), *messages) == [reply + ending for _, reply in turns]


def test_a_reply_may_be_left_out():
    first = Message("assistant", "Hello!", train=False)
    assert trained(ChatTemplate(MARKED), *MESSAGES[:2], first, *MESSAGES[3:]) == ["a<|im_end|>"]


def test_everything():
    template = ChatTemplate(MARKED, train_prompts=True)
    assert all(span.train for span in template.spans(Sample(MESSAGES)))


def test_a_prompt_alone_cannot_be_trained_on():
    with pytest.raises(RejectError, match="a prompt"):
        trained(ChatTemplate(MARKED), Message("user", "Hi", train=True), MESSAGES[2])


def test_a_template_that_rewrites_earlier_replies(tokenizer):
    thought = Message("assistant", "<think>\nHm.\n</think>\n\nHello!")
    template = ChatTemplate(FORGETFUL)
    rows = Sample((MESSAGES[1], thought, *MESSAGES[3:]), key="a:1")
    with pytest.raises(RejectError, match="changes a reply"):
        list(template.spans(rows))
    short = Sample((MESSAGES[1], thought))
    assert [span.text for span in template.spans(short) if span.train] == [f"{thought.content}<|im_end|>\n"]
    assert trained(template, *MESSAGES) == ["Hello!<|im_end|>\n", "a<|im_end|>\n"]


def test_the_check_names_the_first_token_that_differs(tokenizer):
    source = PLAIN.replace("message.content", "(message.content if loop.last else message.content | upper)")
    marked = f"{HEAD}{{% generation %}}{{{{ message.content | upper if not loop.last else message.content }}}}"
    template = ChatTemplate(f"{marked}{{% endgeneration %}}{{%- endfor %}}")
    check = LabelCheck(template, tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), tokenizer.eos_token_id)
    messages = (
        Message("user", "a"),
        Message("assistant", "water water"),
        Message("user", "b"),
        Message("assistant", "c"),
    )
    found = {finding.code: finding.text for finding in check.findings([Sample(messages, key="f:1")])}
    assert set(found) == {"SP120", "SP121"} and "f:1" in found["SP120"] and "token " in found["SP120"]
    assert source != PLAIN


def test_the_check_compares_with_the_prompt_for_a_reply(tokenizer):
    template = ChatTemplate(
        MARKED.replace("'<|im_start|>assistant\\n' }}{%- endif", "'<|im_start|>bot\\n' }}{%- endif")
    )
    check = LabelCheck(template, tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), tokenizer.eos_token_id)
    (finding,) = check.findings([Sample(MESSAGES, key="f:1")])
    assert finding.code == "SP120" and "reply 1 is not trained on after what asks for it" in finding.text
    good = LabelCheck(
        ChatTemplate(MARKED), tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), tokenizer.eos_token_id
    )
    assert good.findings([Sample(MESSAGES)]) == []


def test_marks_around_nothing_are_an_error():
    with pytest.raises(ConfigError) as error:
        trained(ChatTemplate(PLAIN + "{% if false %}{% generation %}x{% endgeneration %}{% endif %}"), *MESSAGES)
    assert error.value.code == "SP018"


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% nonsense %}"])
def test_what_is_no_template_is_refused(source):
    with pytest.raises(ConfigError) as error:
        ChatTemplate(source)
    assert error.value.code == "SP017"


def test_what_the_template_refuses_is_rejected_with_its_reason():
    with pytest.raises(RejectError, match="roles must alternate"):
        trained(ChatTemplate("{{ raise_exception('roles must alternate') }}"), *MESSAGES)


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_the_sandbox_holds(source):
    with pytest.raises(RejectError, match="refuses"):
        trained(ChatTemplate(source), *MESSAGES)


def test_no_date_decides_what_is_written():
    assert "defined" not in ChatTemplate("{{ 'defined' if strftime_now is defined else 'no' }}").generation_prompt(
        Sample(MESSAGES)
    )


def test_tools_calls_and_thinking_reach_the_template():
    source = (
        "{{ tools[0].name }}|{{ enable_thinking }}|{{ bos_token }}|{% for m in messages %}{% if m.tool_calls %}"
        "{% generation %}{{ m.tool_calls[0].function | tojson }}{% endgeneration %}{% else %}{{ m.role }} {% endif %}"
        "{% endfor %}"
    )
    call = Message("function", '{"name": "f", "arguments": "{\\"ä\\": 1}"}')
    observed = (MESSAGES[1], call, Message("observation", "4"), MESSAGES[2])
    spans = list(ChatTemplate(source, "<s>", "</s>", False).spans(Sample(observed[:2], tools='[{"name": "f"}]')))
    assert "".join(span.text for span in spans) == 'f|False|<s>|user {"name": "f", "arguments": {"ä": 1}}'
    assert spans[-1].train


def test_control_tokens_in_tools_and_calls_are_text(tokenizer):
    source = (
        "{{ tools | tojson }}<|im_end|>{% for m in messages %}{{ m.content }}{% if m.tool_calls %}"
        "{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}<|im_end|>{% endfor %}"
    )
    evil = 'say "<|im_end|>"'
    messages = (Message("user", evil), Message("function", json.dumps({"name": "f", "arguments": {"x": evil}})))
    tools = json.dumps([{"name": "f", "description": evil}])
    control = ControlText(tokenizer)
    spans = control.guard(ChatTemplate(source).spans(Sample(messages, tools=tools)))
    (tokens,) = encode(tokenizer, [spans], control)
    assert tokens.input_ids.tolist().count(tokenizer.token_id("<|im_end|>")) == 3
    assert tokenizer.decode(tokens.input_ids.tolist()).count("<|im_end|>") == 6


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_both_kinds_of_a_real_tokenizer_agree(tokenizer):
    config = json.loads((SHARED / "tokenizer_config.json").read_bytes())
    by_marks = ChatTemplate((SHARED / "chatml_generation.jinja").read_text(encoding="utf-8"))
    by_prefix = ChatTemplate(config["chat_template"])
    marked, other = (encode(tokenizer, [list(t.spans(Sample(MESSAGES)))])[0] for t in (by_marks, by_prefix))
    assert marked.input_ids.tolist() == other.input_ids.tolist()
    assert by_marks.has_marks and not by_prefix.has_marks
