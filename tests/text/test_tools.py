"""Tools as each family of models knows them, to the character."""

from __future__ import annotations

import json

import pytest

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.hooks.host import PluginHost
from seqpack.text.catalog import template_text
from seqpack.text.chat_template import ChatTemplate
from seqpack.text.encoder import SampleEncoder
from seqpack.text.labels import LabelCheck, choose
from seqpack.text.plain import ControlText
from seqpack.text.rendered import Rendered
from seqpack.text.template_file import parse_template
from seqpack.text.tools import TOOL_FORMATS, describe_tools, parse_calls, tool_format

TOOL = {
    "name": "weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WRAPPED = {"type": "function", "function": TOOL}
TOOLS = json.dumps([TOOL])
CALL = '{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}'
SIGNATURE = json.dumps(WRAPPED)
MESSAGES = (
    Message("user", "Rain?"),
    Message("function", CALL),
    Message("observation", "no"),
    Message("assistant", "No."),
)
QWEN_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    f"signatures within <tools></tools> XML tags:\n<tools>\n{SIGNATURE}\n</tools>\n\nFor each function call, return a "
    "json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def render(name: str, tools: str = TOOLS) -> str:
    text = template_text(PluginHost([]).template(name))
    assert text is not None
    template = parse_template(text).with_tokens(bos="<s>", eos="</s>")
    return "".join(span.text for span in template.spans(Sample(MESSAGES, tools=tools)) if not span.elided)


def call(name: str, content: str) -> str:
    return Rendered.join(tool_format(name).call(parse_calls(content))).text


def test_qwen3():
    assert render("qwen3") == (
        f"<|im_start|>system\n\n\n{QWEN_TOOLS}<|im_end|>\n<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n"
        '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nno\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nNo.<|im_end|>\n"
    )


def in_a_row(*messages: Message, name: str = "qwen3") -> str:
    text = template_text(PluginHost([]).template(name))
    assert text is not None
    spans = parse_template(text).with_tokens(bos="<s>", eos="</s>").spans(Sample(messages))
    return "".join(f"[{span.text}]" if span.train else span.text for span in spans if not span.elided)


NOW = '{"name": "now", "arguments": {}}'


def test_a_text_and_calls_in_one_turn_and_several_results():
    """As in Qwen3's own chat template: one turn of the assistant, one user turn for all results."""
    both = Message("function", f"[{NOW}, {CALL}]")
    results = (Message("observation", "noon"), Message("observation", "no"))
    said = in_a_row(Message("user", "Rain?"), Message("assistant", "Let me see."), both, *results, MESSAGES[-1])
    assert said == (
        "<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[Let me see.\n<tool_call>\n"
        f"{NOW}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call><|im_end|>\n]<|im_start|>user\n<tool_response>\nnoon\n"
        "</tool_response>\n<tool_response>\nno\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        "[No.<|im_end|>\n]"
    )


def test_a_thought_before_a_call_has_no_joint():
    thought = Message("assistant", "<think>\nHm.\n</think>\n\n")
    said = in_a_row(Message("user", "Rain?"), thought, Message("function", CALL))
    assert said.endswith(f"[<think>\nHm.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call><|im_end|>\n]")


@pytest.mark.parametrize("name", sorted({template.name for template in PluginHost([]).templates} - {"qwen3"}))
def test_other_templates_have_no_form_for_them(name):
    for messages in (
        (MESSAGES[0], Message("assistant", "Let me see."), *MESSAGES[1:]),
        (*MESSAGES[:3], MESSAGES[2], MESSAGES[3]),
    ):
        with pytest.raises(RejectError, match="alternate"):
            in_a_row(*messages, name=name)


def test_a_joint_is_no_way_round_the_order_of_turns():
    for messages in (MESSAGES[:3], MESSAGES[1:], (*MESSAGES, MESSAGES[3]), (MESSAGES[0], *MESSAGES), ()):
        with pytest.raises(RejectError, match="alternate"):
            in_a_row(*messages)


UNTRAINED = Message("assistant", "Let me see.", train=False)


def test_a_text_and_its_call_are_trained_on_together():
    text, call = Message("assistant", "Let me see."), Message("function", CALL)
    assert in_a_row(MESSAGES[0], UNTRAINED, Message("function", CALL, train=False)).count("[") == 0
    with pytest.raises(RejectError, match="only one"):
        in_a_row(MESSAGES[0], UNTRAINED, call)
    last = choose(Sample((*MESSAGES, MESSAGES[0], text, call)), "last").messages
    assert [message.train for message in last] == [None, False, None, False, None, None, None]


QWEN3_TURNS = (
    "{%- for m in messages %}{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content }}{%- for call in m.tool_calls or [] %}"
    "{%- if m.content or not loop.first %}{{- '\n' }}{%- endif %}"
    "{{- '<tool_call>\n' }}{{- call.function | tojson }}{{- '\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def test_chat_templates_get_one_message():
    """And give the same text as our own file, but for the empty thought."""
    text, call = Message("assistant", "Let me see."), Message("function", CALL)
    messages = (MESSAGES[0], text, call, MESSAGES[2], MESSAGES[2], MESSAGES[3])
    template = ChatTemplate(QWEN3_TURNS)
    said = "".join(f"[{span.text}]" if span.train else span.text for span in template.spans(Sample(messages)))
    assert said == in_a_row(*messages).replace("<think>\n\n</think>\n\n", "")
    with pytest.raises(RejectError, match="only one"):
        list(template.spans(Sample((MESSAGES[0], UNTRAINED, call))))


def test_the_check_of_labels_knows_such_turns(tokenizer):
    text, call = Message("assistant", "Let me see."), Message("function", CALL)
    sample = Sample((MESSAGES[0], text, call, MESSAGES[2], MESSAGES[2], MESSAGES[3]))
    ours = parse_template(template_text(PluginHost([]).template("qwen3")) or "")
    for template in (ChatTemplate(QWEN3_TURNS), ours):
        check = LabelCheck(
            template, tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), tokenizer.token_id("<|im_end|>")
        )
        assert check.findings([sample]) == []


def test_ling():
    assert render("bailing_mini") == (
        f"<role>SYSTEM</role>{QWEN_TOOLS}\ndetailed thinking off<|role_end|>"
        "<role>HUMAN</role>Rain?<|role_end|><role>ASSISTANT</role>"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}\n</tool_call><|role_end|>'
        "<role>OBSERVATION</role>\n<tool_response>\nno\n</tool_response><|role_end|><role>ASSISTANT</role>"
        "No.<|role_end|>"
    )


@pytest.mark.parametrize("name", ["glm4", "chatglm3"])
def test_glm4(name):
    text = render(name)
    body = json.dumps(TOOL, indent=4)
    assert f"# 可用工具\n\n## weather\n\n{body}\n在调用上述函数时，请使用 Json 格式表示调用的参数。<|user|>\n" in text
    assert text.endswith(
        '<|user|>\nRain?<|assistant|>weather\n{"city": "Bonn", "days": 2}<|observation|>\nno<|assistant|>\nNo.'
    )


def test_glm4_moe_calls_in_xml_as_its_tools_say():
    text = render("glm4_moe")
    assert "For each function call, output the function name and arguments within the following XML format" in text
    assert (
        "\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call><|observation|>\nno"
    ) in text


def test_deepseek4():
    text = render("deepseek4")
    assert text.startswith("<｜begin▁of▁sentence｜>\n\n## Tools\n\nYou have access to a set of tools")
    assert f"### Available Tool Schemas\n\n{json.dumps(TOOL)}\n\nYou MUST strictly follow" in text
    assert text.endswith(
        "<｜User｜>Rain?<｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n"
        '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Bonn</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜tool_calls><｜end▁of▁sentence｜><｜User｜><tool_result>no</tool_result><｜Assistant｜></think>No."
        "<｜end▁of▁sentence｜>"
    )


@pytest.mark.parametrize("name", ["qwen", "qwen3", "glm4", "deepseek4"])
def test_the_wrapping_of_openai_changes_nothing(name):
    assert render(name) == render(name, json.dumps([WRAPPED]))


def test_several_calls():
    two = f"[{CALL}, {CALL}]"
    assert call("default", two).count("Action: weather\nAction Input: {") == 2
    assert call("qwen", two).count("</tool_call>\n<tool_call>") == 1
    with pytest.raises(RejectError, match="several tool calls"):
        call("glm4", two)


def test_arguments_may_be_json_in_a_string():
    as_text = json.dumps({"name": "weather", "arguments": '{"city": "Bonn", "days": 2}'})
    assert call("qwen", as_text) == call("qwen", CALL)
    assert call("default", '{"name": "f", "arguments": "not json"}') == 'Action: f\nAction Input: "not json"'


def test_a_thought_before_a_call_stays_there():
    template = parse_template(template_text(PluginHost([]).template("qwen3")) or "")
    thought = Message("function", f"<think>\nHm.\n</think>\n\n{CALL}")
    text = "".join(span.text for span in template.spans(Sample((MESSAGES[0], thought))))
    assert "assistant\n<think>\nHm.\n</think>\n\n<tool_call>" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("weather(Bonn)", "not valid JSON"),
        ("[]", "not an object"),
        ("3", "not an object"),
        ('{"arguments": {}}', "not an object"),
    ],
)
def test_what_is_no_call_is_rejected(content, reason):
    with pytest.raises(RejectError, match=reason):
        parse_calls(content)


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("{", "not valid JSON"),
        ("{}", "not a list"),
        ("[3]", "not a list"),
        ('[{"description": "x"}]', "no name"),
        ('[{"name": "x", "parameters": 3}]', "schema"),
    ],
)
def test_tools_that_are_none_are_rejected(tools, reason):
    with pytest.raises(RejectError, match=reason):
        describe_tools(tool_format("default"), tools)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@pytest.mark.parametrize("tools", ["", " ", "[]"])
def test_no_tools_are_not_described(name, tools):
    assert describe_tools(tool_format(name), tools).text == ""


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_tool_without_parameters(name):
    assert "now" in describe_tools(tool_format(name), '[{"name": "now"}]').text


def test_an_unknown_format():
    with pytest.raises(ConfigError, match="no tool format 'qwn'; did you mean 'qwen'"):
        tool_format("qwn")
