"""Templates render what their model was made with, to the character; a broken template file is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from seqpack.core.errors import ConfigError, PluginError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.hooks.component import Component
from seqpack.hooks.host import PluginHost
from seqpack.text.catalog import load_template, template_text
from seqpack.text.template_file import parse_template
from seqpack.text.tokenizer import Tokenizer

HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
SYSTEM = Message("system", "Be kind.")
FIRST = (Message("user", "Hi"), Message("assistant", "Hello!"))
SECOND = (Message("user", "Add.\n1 + 1"), Message("assistant", "2"))


def render(template, *messages: Message) -> str:
    return "".join(span.text for span in template.spans(Sample(messages)))


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (FIRST, HELPFUL + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>"),
        (
            (SYSTEM, *FIRST),
            "<|im_start|>system\nBe kind.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>",
        ),
        (
            (*FIRST, *SECOND),
            HELPFUL + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
            "<|im_start|>user\nAdd.\n1 + 1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>",
        ),
    ],
    ids=["default system", "system", "two turns"],
)
def test_qwen_to_the_character(qwen, messages, text):
    assert render(qwen, *messages) == text


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (FIRST, BELOW + "### Instruction:\nHi\n\n### Response:\nHello!<|endoftext|>"),
        ((SYSTEM, *FIRST), "Be kind.### Instruction:\nHi\n\n### Response:\nHello!<|endoftext|>"),
        (
            (*FIRST, *SECOND),
            BELOW + "### Instruction:\nHi\n\n### Response:\nHello!<|endoftext|>\n\n"
            "### Instruction:\nAdd.\n1 + 1\n\n### Response:\n2<|endoftext|>",
        ),
    ],
    ids=["default system", "system", "two turns"],
)
def test_alpaca_to_the_character(alpaca, messages, text):
    assert render(alpaca, *messages) == text


@pytest.mark.parametrize("template", ["qwen", "alpaca"])
def test_braces_in_the_data_are_data(template, request):
    text = render(
        request.getfixturevalue(template), Message("user", "{{content}} {{eos}}"), Message("assistant", "{{eos}}")
    )
    assert text.count("{{content}} {{eos}}") == 1 and text.count("{{eos}}") == 2


def test_spans_say_what_is_trained_and_which_text_is_the_data(qwen):
    spans = list(qwen.spans(Sample((SYSTEM, *FIRST, *SECOND))))
    assert [span.text for span in spans if span.train] == ["Hello!<|im_end|>", "2<|im_end|>"]
    marked = [span.text[slice(*span.content)] for span in spans if span.content]
    assert marked == ["Be kind.", "Hi", "Hello!", "Add.\n1 + 1", "2"]
    assert [span.turn for span in spans] == [0, 0, 0, 1, 1, 1]


def test_a_message_overrides_what_is_trained(qwen):
    user, reply = Message("user", "Hi", train=True), Message("assistant", "Hello!", train=False)
    trained = [span.text for span in qwen.spans(Sample((user, reply))) if span.train]
    assert trained == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"]


@pytest.mark.parametrize(
    "messages",
    [
        (), (SYSTEM,), FIRST[:1], FIRST[1:], (*FIRST, SECOND[0]), (FIRST[0], *FIRST), (*FIRST, SYSTEM, *SECOND),
        (FIRST[1], FIRST[0]),
    ],
    ids=["none", "system alone", "no reply", "no question", "open end", "two questions", "system inside", "reversed"],
)  # fmt: skip
def test_turns_that_do_not_alternate_are_rejected(qwen, messages):
    with pytest.raises(RejectError, match="do not alternate"):
        list(qwen.spans(Sample(messages)))


GOOD = {"user": "U: {{content}}\n", "assistant": "{{content}}<|im_end|>", "end_of_turn": "<|im_end|>"}


def test_a_minimal_template():
    template = parse_template(json.dumps(GOOD))
    assert render(template, SYSTEM, *FIRST, *SECOND) == ("Be kind.U: Hi\nHello!<|im_end|>U: Add.\n1 + 1\n2<|im_end|>")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"usr": "x"}, "unknown key 'usr'; did you mean 'user'"),
        ({"user": None}, "'user' must be text, not NoneType"),
        ({"separator": 3}, "'separator' must be text, not int"),
        ({"user": "U: "}, "'user' must have {{content}} exactly once"),
        ({"system": ""}, "'system' must have {{content}} exactly once"),
        ({"assistant": "{{content}}{{content}}<|im_end|>"}, "'assistant' must have {{content}} exactly once"),
        ({"assistant": "<|im_end|>{{content}}"}, "must end with 'end_of_turn'"),
        ({"end_of_turn": "{{eos}}"}, "must end with 'end_of_turn'"),
    ],
)
def test_a_wrong_template_is_refused(change, problem):
    with pytest.raises(ConfigError) as error:
        parse_template(json.dumps(GOOD | change))
    assert error.value.code == "SP015" and problem in error.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("user: [", "not valid YAML"),
        ("- user", "is a mapping"),
        ("", "is a mapping"),
        ("user: '{{content}}'", "'assistant' is missing"),
    ],
)
def test_a_file_that_is_no_template_is_refused(text, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        parse_template(text)
    assert error.value.code == "SP015"


def component(target: object) -> Component:
    return Component("mine", str(target), "", plugin="acme")


def test_a_broken_file_of_a_plugin_is_an_error_of_the_plugin(tmp_path, tokenizer):
    (tmp_path / "t.yaml").write_text("user: 3")
    with pytest.raises(PluginError, match="template 'mine'") as error:
        load_template(component(tmp_path / "t.yaml"), tokenizer)
    assert error.value.code == "SP015"


@pytest.mark.parametrize("raw", [None, b"user: \xff"], ids=["missing", "not utf-8"])
def test_a_file_that_cannot_be_read(tmp_path, raw):
    if raw:
        (tmp_path / "t.yaml").write_bytes(raw)
    with pytest.raises(PluginError, match=r"t\.yaml of 'acme'") as error:
        template_text(component(tmp_path / "t.yaml"))
    assert error.value.code == "SP012"


def test_a_template_may_be_a_file_of_a_package_or_a_class(tokenizer):
    with pytest.raises(PluginError):
        template_text(component("no_such_package:t.yaml"))
    assert template_text(component("package.module:Class")) is None
    loaded = load_template(component(f"{__name__}:Shouting"), tokenizer)
    assert [span.text for span in loaded.spans(Sample(FIRST))] == ["HELLO!"]


class Shouting:
    def spans(self, sample):
        from seqpack.core.types import Span

        yield Span(sample.messages[-1].content.upper(), train=True)


def changed(tokenizer_dir, folder, *, without: tuple[str, ...] = (), eos: str | None = "<|endoftext|>") -> Tokenizer:
    """The tokenizer with other control tokens."""
    shutil.copytree(tokenizer_dir, folder)
    value = json.loads((folder / "tokenizer.json").read_bytes())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] not in without]
    for token in without:
        value["model"]["vocab"].pop(token, None)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return Tokenizer(folder)


def test_the_end_token_is_that_of_the_template(qwen, tokenizer):
    assert qwen.check_tokens(tokenizer, name="qwen") == tokenizer.token_id("<|im_end|>")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>"])
def test_a_tokenizer_without_the_control_tokens_is_refused(qwen, tokenizer_dir, tmp_path, token):
    other = changed(tokenizer_dir, tmp_path / "other", without=(token,))
    with pytest.raises(ConfigError) as error:
        qwen.check_tokens(other, name="qwen")
    assert error.value.code == "SP016" and repr(token) in error.value.message and "'qwen'" in error.value.message


def test_a_template_that_ends_with_eos_needs_one(tokenizer_dir, tmp_path):
    other = changed(tokenizer_dir, tmp_path / "other", eos=None)
    with pytest.raises(ConfigError, match="'alpaca' ends replies with the end-of-text token") as error:
        load_template(PluginHost([]).template("alpaca"), other)
    assert error.value.code == "SP016"
    assert load_template(PluginHost([]).template("qwen"), other)
