"""A tokenizer's own chat template: Jinja, in the sandbox and with the settings Hugging Face uses.

What is trained on comes from the template's ``{% generation %}`` marks. A template without them is rendered up to every
reply, with the header that asks for it and with the reply; the difference is what is trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample, Span
from seqpack.text.tokenizer import Tokenizer
from seqpack.text.tools import calls_with_text, parse_calls

# Unicode reserves these for use inside a program: no text that is interchanged has them.
BEGIN, END = "\ufdd0", "\ufdd1"
OPEN, CLOSE = "\ufdd2", "\ufdd3"
_RESERVED = frozenset((BEGIN, END, OPEN, CLOSE))
_REPLIES = ("assistant", "function")

_STAND_IN = re.compile(f"{OPEN}(\\d+){CLOSE}")
_SUSPICIOUS = frozenset("<[｜")

Range = tuple[int, int]
Render = Callable[..., str]


class Place(NamedTuple):
    """Characters of the data in a rendered text: a message, or something in a tool or a call."""

    start: int
    end: int
    is_message: bool


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Renders whole conversations with ``source``; ``thinking`` is handed to it as ``enable_thinking``.

    ConfigError SP017 if it is not a Jinja template.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    thinking: bool | None = None
    train_prompts: bool = False
    _render: Render = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            template = environment.from_string(self.source)
        except TemplateError as error:
            raise ConfigError("SP017", f"the chat template is not valid Jinja: {error}", help=_OTHER) from error
        # No strftime_now: the day a file was made must not decide what is in it.
        constants: dict[str, Any] = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        if self.thinking is not None:
            constants["enable_thinking"] = self.thinking
        object.__setattr__(self, "_render", partial(template.render, **constants))

    @property
    def has_marks(self) -> bool:
        """Whether the template itself says what the assistant generates."""
        return "endgeneration" in self.source

    def spans(self, sample: Sample) -> Iterator[Span]:
        """Text up to a reply, the reply, text up to the next; RejectError if the template cannot take the sample."""
        messages = _as_openai(sample.messages)
        tools = _tools(sample.tools)
        if not any(message.role in _REPLIES for message in sample.messages):
            raise RejectError("no reply of an assistant")
        if any(
            message.train is (not self.train_prompts) for message in sample.messages if message.role not in _REPLIES
        ):
            raise RejectError("a prompt that is to be trained on otherwise than the others, under a chat template")
        if _RESERVED & set("".join(message.content for message in sample.messages)):
            raise RejectError("characters that Unicode reserves for programs")
        marked = self._text(messages, tools)
        text, replies = _cut_marks(marked)
        if not self.has_marks:
            replies = self._replies_by_prefix(text, messages, tools)
        if not replies:
            raise ConfigError(
                "SP018",
                "the chat template marks nothing as generated, although the sample has replies",
                help="put {% generation %} around all that the assistant says, or remove the marks altogether",
            )
        data = self._places(text, messages, tools)
        trained = _train_flags(sample.messages, len(replies))
        yield from _divide(text, replies, data, trained, train_prompts=self.train_prompts)

    def generation_prompt(self, sample: Sample) -> str:
        """What the model sees before it replies to these messages."""
        messages, tools = _as_openai(sample.messages), _tools(sample.tools)
        return _cut_marks(self._text(messages, tools, add_generation_prompt=True))[0]

    def _text(self, messages: list[dict[str, Any]], tools: Any, *, add_generation_prompt: bool = False) -> str:
        try:
            return self._render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise RejectError(f"the chat template refuses it: {str(error)[:80]}") from error

    def _replies_by_prefix(self, text: str, messages: list[dict[str, Any]], tools: Any) -> list[Range]:
        """Where each reply stands in the whole text."""
        found: list[Range] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._text(messages[:number], tools, add_generation_prompt=True)
            after = self._text(messages[: number + 1], tools)
            found.append(_reply_range(text, before, after, message["content"]))
        return found

    def _places(self, text: str, messages: list[dict[str, Any]], tools: Any) -> list[Place]:
        """Where the contents of the messages stand, and texts of tools and calls that may look like control tokens.

        Found by rendering stand-ins for them. A template that looks into the contents (thoughts, blanks) gives another
        text for stand-ins: then the contents that can be found are.
        """
        values = [message["content"] for message in messages]
        blank = [
            {name: f"{OPEN}{number}{CLOSE}" if name == "content" else _stand_ins(part, values) for name, part in item}
            for number, item in enumerate(message.items() for message in messages)
        ]
        frame = _cut_marks(self._text(blank, _stand_ins(tools, values)))[0]
        places = _fill_in(frame, values, text, num_messages=len(messages))
        return _search(text, values[: len(messages)]) if places is None else places


def chat_template_source(tokenizer: Tokenizer) -> str:
    """``chat_template.jinja`` beside the tokenizer, else ``chat_template`` of its configuration; ConfigError SP017."""
    path = tokenizer.directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = tokenizer.chat_template
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if not isinstance(value, str):
        raise ConfigError("SP017", f"{tokenizer.directory} has no chat template", help=_OTHER)
    return value


_OTHER = "name a template with --prompt-type, or a .jinja file with --prompt-type-path"


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: puts marks around what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - a set, as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_enclose"), [], [], body).set_lineno(line)

    def _enclose(self, caller: Callable[[], str]) -> str:
        return f"{BEGIN}{caller()}{END}"


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own filter escapes for HTML; the model must see the characters."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> str:
    raise TemplateError(message)


def _as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as templates know them: a text and the tools called right after it are one message."""
    found: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if calls_with_text(messages, index):
            if found[-1]["role"] == "assistant" and messages[index - 1].train is not message.train:
                raise RejectError("a reply and its tool call, of which only one is to be trained on")
            found[-1] |= {"tool_calls": _openai(message)["tool_calls"]}
        else:
            found.append(_openai(message))
    return found


def _openai(message: Message) -> dict[str, Any]:
    if message.role == "function":
        calls = [{"name": call.name, "arguments": call.arguments} for call in parse_calls(message.content)]
        listed = [{"type": "function", "function": call} for call in calls]
        return {"role": "assistant", "content": "", "tool_calls": listed}
    role = "tool" if message.role == "observation" else message.role
    return {"role": role, "content": message.content}


def _tools(tools: str) -> Any:
    if not tools.strip():
        return None
    try:
        return json.loads(tools) or None
    except ValueError:
        raise RejectError("'tools' is not valid JSON") from None


def _cut_marks(marked: str) -> tuple[str, list[Range]]:
    """The text without marks, and what was between them."""
    pieces = marked.replace(END, BEGIN).split(BEGIN)
    ends = list(accumulate(map(len, pieces)))
    replies = [(ends[index - 1], ends[index]) for index in range(1, len(pieces), 2)]
    return "".join(pieces), [reply for reply in replies if reply[0] < reply[1]]


def _reply_range(text: str, before: str, after: str, content: str) -> Range:
    """A reply in the whole ``text``; ``before`` asks for it, ``after`` ends with it.

    Some templates render an earlier reply otherwise than the last one (Qwen3 removes its thought): then the reply is
    found by its content, and ends as it does in ``after``.
    """
    if not text.startswith(before):
        raise RejectError("the chat template renders a conversation otherwise when it goes on")
    if text.startswith(after):
        return len(before), len(after)
    said = content.strip()
    place, said_after = text.find(said, len(before)), after.rfind(said)
    ending = after[said_after + len(said) :]
    if not said or place < 0 or said_after < 0 or not text.startswith(ending, place + len(said)):
        raise RejectError("the chat template changes a reply when the conversation goes on")
    return len(before), place + len(said) + len(ending)


def _stand_ins(value: Any, values: list[str]) -> Any:
    """``value`` with a stand-in for each text that might hold a control token; the texts are added to ``values``.

    Only those: a template may compare the others (``type``, for one) with what it expects.
    """
    if isinstance(value, str) and not _SUSPICIOUS.isdisjoint(value):
        values.append(value)
        return f"{OPEN}{len(values) - 1}{CLOSE}"
    if isinstance(value, dict):
        return {name: _stand_ins(part, values) for name, part in value.items()}
    return [_stand_ins(part, values) for part in value] if isinstance(value, list) else value


def _fill_in(frame: str, values: Sequence[str], text: str, *, num_messages: int) -> list[Place] | None:
    """Where the values stand in ``text``, if filling them into the frame gives that text; else None."""
    places: list[Place] = []
    filled, done = "", 0
    for mark in _STAND_IN.finditer(frame):
        filled += frame[done : mark.start()]
        number, done = int(mark.group(1)), mark.end()
        forms = (values[number], _to_json(values[number])[1:-1])
        form = next((form for form in forms if text.startswith(form, len(filled))), None)
        if form is None:
            return None
        places.append(Place(len(filled), len(filled) + len(form), number < num_messages))
        filled += form
    return places if filled + frame[done:] == text else None


def _search(text: str, contents: Sequence[str]) -> list[Place]:
    places: list[Place] = []
    done = 0
    for content in contents:
        said = content.strip()
        start = text.find(said, done) if said else -1
        if start >= 0:
            done = start + len(said)
            places.append(Place(start, done, True))
    return places


def _train_flags(messages: Sequence[Message], num_replies: int) -> list[bool]:
    """Whether each reply of the rendered text is trained on."""
    flags = [
        message.train
        for index, message in enumerate(messages)
        if message.role in _REPLIES and not calls_with_text(messages, index)
    ]
    if len(flags) == num_replies:
        return [flag is not False for flag in flags]
    if any(flag is False for flag in flags):
        raise RejectError("the chat template joins or leaves out replies, and not all of them are trained on")
    return [True] * num_replies


def _divide(
    text: str, replies: Sequence[Range], data: Sequence[Place], trained: Sequence[bool], *, train_prompts: bool
) -> Iterator[Span]:
    done = 0
    for turn, ((start, end), train) in enumerate(zip(replies, trained, strict=True)):
        if done < start:
            yield _span(text, (done, start), data, train=train_prompts, turn=turn)
        yield _span(text, (start, end), data, train=train, turn=turn)
        done = end
    if done < len(text):
        yield _span(text, (done, len(text)), data, train=train_prompts, turn=len(replies) - 1)


def _span(text: str, part: Range, data: Sequence[Place], *, train: bool, turn: int) -> Span:
    start, end = part
    inside = [place for place in data if start <= place.start < place.end <= end]
    # of several messages before a reply, the last one is what may be shortened: the question itself
    messages = [(place.start - start, place.end - start) for place in inside if place.is_message]
    ranges = tuple((place.start - start, place.end - start) for place in inside)
    return Span(text[start:end], train, turn, messages[-1] if messages else None, ranges)
