"""How tools are described to a model and how it calls them: one format per family of models.

``default`` is MindSpeed-LLM's own, the others are those of the models. The texts are theirs to the character, for a
model was trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.suggest import did_you_mean
from seqpack.core.types import Message
from seqpack.text.rendered import Data, Rendered

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; ``arguments`` by name, or whatever else the data have there."""

    name: str
    arguments: Any

    @property
    def arguments_json(self) -> str:
        return to_json(self.arguments)


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``describe`` gives the text that follows the system message, ``call`` what the assistant says to call tools."""

    describe: Callable[[Sequence[Tool]], list[str]]
    call: Callable[[Sequence[Call]], list[str]]


def tool_format(name: str) -> ToolFormat:
    """ConfigError if there is none of that name."""
    if name not in TOOL_FORMATS:
        hint = f"{did_you_mean(name, TOOL_FORMATS)} known: {', '.join(TOOL_FORMATS)}".strip()
        raise ConfigError("SP015", f"no tool format {name!r}; {hint}")
    return TOOL_FORMATS[name]


def describe_tools(style: ToolFormat, tools: str) -> Rendered:
    """The tools of a sample (JSON text of a list) as text; empty if there are none. RejectError if it is no list."""
    if not tools.strip():
        return Rendered("")
    try:
        value = json.loads(tools)
    except ValueError:
        raise RejectError("'tools' is not valid JSON") from None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RejectError("'tools' is not a list of objects")
    return Rendered.join(style.describe(value)) if value else Rendered("")


def parse_calls(content: str) -> list[Call]:
    """A ``function`` message: ``{"name": ..., "arguments": ...}`` or a list of these. RejectError if it is not."""
    try:
        value = json.loads(content)
    except ValueError:
        raise RejectError("a tool call is not valid JSON") from None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise RejectError("a tool call is not an object with name and arguments")
    return [Call(call["name"], _arguments(call.get("arguments", {}))) for call in calls]


def calls_with_text(messages: Sequence[Message], index: int) -> bool:
    """Whether message ``index`` calls tools in the turn in which the assistant has just said something."""
    return index > 0 and (messages[index - 1].role, messages[index].role) == ("assistant", "function")


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _arguments(value: Any) -> Any:
    """OpenAI's form has the arguments as JSON inside a string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _function(tool: Tool) -> Tool:
    """The tool itself, which OpenAI wraps as ``{"type": "function", "function": ...}``. RejectError without a name."""
    inner = tool.get("function", tool)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RejectError("a tool has no name")
    return inner


def _parameters(tool: Tool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    schema = tool.get("parameters") or {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or not isinstance(properties or {}, dict):
        raise RejectError("the parameters of a tool are not a JSON schema")
    known = {name: value if isinstance(value, dict) else {} for name, value in (properties or {}).items()}
    return known, list(schema.get("required") or ())


def _default_parameter(name: str, value: dict[str, Any], required: list[str]) -> str:
    needed = ", required" if name in required else ""
    choices = f", should be one of [{', '.join(map(str, value['enum']))}]" if value.get("enum") else ""
    items = value.get("items")
    each = f", where each item should be {items.get('type', '')}" if isinstance(items, dict) and items else ""
    return f"  - {name} ({value.get('type', '')}{needed}): {value.get('description', '')}{choices}{each}\n"


def _describe_default(tools: Sequence[Tool]) -> list[str]:
    text = "You have access to the following tools:\n"
    parts: list[str] = [text]
    functions = [_function(tool) for tool in tools]
    for tool in functions:
        properties, required = _parameters(tool)
        lines = "".join(_default_parameter(name, value, required) for name, value in properties.items())
        description = f"{tool['name']}\nTool Description: {tool.get('description', '')}\nTool Args:\n{lines}"
        parts += ["> Tool Name: ", Data(description), "\n"]
    names = ", ".join(tool["name"] for tool in functions)
    return [
        *parts,
        "Use the following format if using a tool:\n```\nAction: tool name (one of [",
        Data(names),
        "]).\nAction Input: the input to the tool, in a JSON format representing the kwargs "
        '(e.g. ```{"input": "hello world", "num_beams": 5}```).\n```\n',
    ]


def _call_default(calls: Sequence[Call]) -> list[str]:
    return _lines(["Action: ", Data(call.name), "\nAction Input: ", Data(call.arguments_json)] for call in calls)


def _describe_glm4(tools: Sequence[Tool]) -> list[str]:
    parts = [
        "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    ]
    for tool in map(_function, tools):
        body = Data(json.dumps(tool, indent=4, ensure_ascii=False))
        parts += [
            "\n\n## ",
            Data(tool["name"]),
            "\n\n",
            body,
            "\n在调用上述函数时，请使用 Json 格式表示调用的参数。",
        ]
    return parts


def _call_glm4(calls: Sequence[Call]) -> list[str]:
    if len(calls) > 1:
        raise RejectError("several tool calls at once, which GLM-4 cannot write")
    return [Data(calls[0].name), "\n", Data(calls[0].arguments_json)]


def _describe_in_xml(before: str, after: str) -> Callable[[Sequence[Tool]], list[str]]:
    def describe(tools: Sequence[Tool]) -> list[str]:
        parts = [before]
        for tool in tools:
            wrapped = tool if tool.get("type") == "function" else {"type": "function", "function": _function(tool)}
            parts += ["\n", Data(to_json(wrapped))]
        return [*parts, after]

    return describe


def _call_qwen(calls: Sequence[Call]) -> list[str]:
    return _lines(
        ["<tool_call>\n", Data(to_json({"name": call.name, "arguments": call.arguments})), "\n</tool_call>"]
        for call in calls
    )


def _call_glm4_moe(calls: Sequence[Call]) -> list[str]:
    parts: list[str] = []
    for call in calls:
        parts += ["\n<tool_call>", Data(call.name)]
        for name, value in _named(call):
            parts += ["\n<arg_key>", Data(name), "</arg_key>\n<arg_value>", _plain(value), "</arg_value>"]
        parts.append("\n</tool_call>")
    return parts


DSML = "｜DSML｜"


def _describe_deepseek4(tools: Sequence[Tool]) -> list[str]:
    schemas: list[str] = []
    for tool in map(_function, tools):
        schemas += [Data(to_json(tool)), "\n"]
    return [
        "\n\n## Tools\n\nYou have access to a set of tools to help answer the user's question. "
        f'You can invoke tools by writing a "<{DSML}tool_calls>" block like the following:\n\n<{DSML}tool_calls>\n'
        f'<{DSML}invoke name="$TOOL_NAME">\n<{DSML}parameter name="$PARAMETER_NAME" string="true|false">'
        f"$PARAMETER_VALUE</{DSML}parameter>\n...\n</{DSML}invoke>\n"
        f'<{DSML}invoke name="$TOOL_NAME2">\n...\n</{DSML}invoke>\n</{DSML}tool_calls>\n\n'
        'String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, '
        'arrays, objects), pass the value in JSON format and set `string="false"`.\n\n'
        "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
        "<think>...</think> BEFORE any tool calls or final response.\n\nOtherwise, output directly after </think> with "
        "tool calls or final response.\n\n### Available Tool Schemas\n\n",
        *schemas,
        "\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n",
    ]


def _call_deepseek4(calls: Sequence[Call]) -> list[str]:
    parts = [f"\n\n<{DSML}tool_calls>\n"]
    for call in calls:
        parts += [f'<{DSML}invoke name="', Data(call.name), '">\n']
        lines = [
            [
                f'<{DSML}parameter name="',
                Data(name),
                f'" string="{str(isinstance(value, str)).lower()}">',
                _plain(value),
                f"</{DSML}parameter>",
            ]
            for name, value in _named(call)
        ]
        parts += [*_lines(lines), f"\n</{DSML}invoke>\n"]
    return [*parts, f"</{DSML}tool_calls>"]


def _named(call: Call) -> list[tuple[str, Any]]:
    arguments = call.arguments if isinstance(call.arguments, dict) else {"arguments": call.arguments}
    return list(arguments.items())


def _plain(value: Any) -> Data:
    return Data(value if isinstance(value, str) else to_json(value))


def _lines(items: Any) -> list[str]:
    """The parts of all items, with a line break between one item and the next."""
    parts: list[str] = []
    for item in items:
        parts += ["\n", *item] if parts else item
    return parts


_SIGNATURES = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALL_AS_JSON = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
_CALL_AS_XML = (
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML format:"
    "\n<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>"
    "\n<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>\n"
)

TOOL_FORMATS: dict[str, ToolFormat] = {
    "default": ToolFormat(_describe_default, _call_default),
    "glm4": ToolFormat(_describe_glm4, _call_glm4),
    "glm4_moe": ToolFormat(_describe_in_xml("\n\n" + _SIGNATURES, _CALL_AS_XML), _call_glm4_moe),
    "qwen": ToolFormat(_describe_in_xml("\n\n" + _SIGNATURES, _CALL_AS_JSON), _call_qwen),
    "ling": ToolFormat(_describe_in_xml(_SIGNATURES, _CALL_AS_JSON + "\ndetailed thinking off"), _call_qwen),
    "deepseek4": ToolFormat(_describe_deepseek4, _call_deepseek4),
}
