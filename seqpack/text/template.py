"""Prompt templates of fixed text around each message, rendered to spans that are tokenized one by one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Sample, Span
from seqpack.text.rendered import PLACEHOLDER, Rendered, fill, split_slot
from seqpack.text.thoughts import Reply, Thoughts
from seqpack.text.tokenizer import Tokenizer, require_token
from seqpack.text.tools import ToolFormat, describe_tools, parse_calls, tool_format

CONTENT = "{{content}}"
BOS = "{{bos}}"
EOS = "{{eos}}"
PROMPTS = ("user", "observation")
REPLIES = ("assistant", "function")
SLOTS = ("prefix", "system", "user", "assistant", "function", "observation", "separator")
_CONTROL_TOKEN = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>")

Slots = tuple[str, ...]
"""Pieces of text, each tokenized on its own."""


class _Turn(NamedTuple):
    """What is asked or returned, what the assistant says to it, and the tools it calls in saying so."""

    prompts: tuple[Message, ...]
    reply: Message
    call: Message | None = None

    @property
    def alternates(self) -> bool:
        return self.prompts[0].role in PROMPTS and self.reply.role in REPLIES


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """What stands around each message. Every reply is trained on, its end token included.

    A turn is a user message or an observation of a tool, and the reply to it: text, or a call of tools. ``prefix``
    opens a sample, ``separator`` every turn but the first. Under ``efficient_eos`` replies have no end token of their
    own: the token after a reply is labelled with it, and the sample ends with one. ``call_joint`` stands between what
    the assistant says and the tools it calls in the same turn, ``observation_joint`` between several results of tools;
    None where the model knows no such turns. ``tokens`` are those the tokenizer
    must have, besides what looks like ``<|this|>``. ``thinking`` and ``train_prompts`` are choices of the user, not of
    the template.
    """

    user: Slots
    assistant: Slots
    system: Slots = (CONTENT,)
    function: Slots = ()
    observation: Slots = ()
    prefix: Slots = ()
    separator: Slots = ()
    default_system: str = ""
    end_of_turn: str = EOS
    efficient_eos: bool = False
    system_in_user: bool = False
    tools: str = "default"
    call_joint: str | None = None
    observation_joint: str | None = None
    thoughts: Thoughts | None = None
    tokens: tuple[str, ...] = ()
    thinking: bool | None = None
    train_prompts: bool = False
    tool_format: ToolFormat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tool_format", tool_format(self.tools))
        object.__setattr__(self, "observation", self.observation or self.user)
        if not self.function:
            object.__setattr__(self, "function", (CONTENT if self.efficient_eos else CONTENT + EOS,))
        for name in SLOTS:
            _check_slots(name, getattr(self, name))
        if not self.efficient_eos and not "".join(self.assistant).rstrip().endswith(self.end_of_turn):
            raise ConfigError("SP015", f"'assistant' must end with 'end_of_turn', which is {self.end_of_turn!r}")

    def with_tokens(self, *, bos: str | None, eos: str | None) -> TextTemplate:
        """The same template with ``{{bos}}`` and ``{{eos}}`` filled in; a tokenizer without the first has none."""

        def filled(text: str) -> str:
            return text.replace(BOS, bos or "").replace(EOS, eos or "")

        slots = {name: tuple(filter(None, map(filled, getattr(self, name)))) for name in SLOTS}
        return replace(self, **slots, end_of_turn=filled(self.end_of_turn))  # type: ignore[arg-type]

    def needs_eos(self) -> bool:
        """Whether ``{{eos}}`` stands anywhere."""
        return any(EOS in text for name in SLOTS for text in getattr(self, name)) or self.end_of_turn == EOS

    def spans(self, sample: Sample) -> Iterator[Span]:
        """Prefix, system and first user message, reply, then separator, user message and reply for each further turn.

        Raises RejectError unless prompts (user, observation) and replies (assistant, function) alternate after an
        optional system message, but for turns that the joints allow, and for tools and tool calls that are not what
        they should be.
        """
        messages = list(sample.messages)
        system = messages.pop(0) if messages and messages[0].role == "system" else None
        turns = self._turns(messages)
        yield from self._literal(self.prefix, turn=0)
        above = self._system(system, sample.tools)
        if above.text and not self.system_in_user:
            if sample.tools:
                yield from _spans(self.system, train=self._trains(system), turn=0, content=above)
            else:
                yield from _message_spans(self.system, above.text, train=self._trains(system), turn=0)
        keeps_thoughts = bool(sample.tools.strip())
        for turn, (prompts, reply, call) in enumerate(turns):
            if turn:
                yield from self._literal(self.separator, turn=turn)
            rendered = self._reply(reply, keep=keeps_thoughts or turn == len(turns) - 1)
            if len(prompts) > 1:
                yield from self._results(prompts, turn)
            else:
                yield from self._prompt(prompts[0], above if self.system_in_user and not turn else None, turn)
            if rendered.prompt:
                yield Span(rendered.prompt, self._trains(prompts[-1]), turn)
            yield from self._answer(reply, rendered, call, turn)

    def check_tokens(self, tokenizer: Tokenizer, *, name: str) -> int | None:
        """The id of ``end_of_turn``; ConfigError if the tokenizer lacks it or another control token of the template."""
        for token in self.tokens:
            require_token(tokenizer, token, template=name)
        for text in (text for slot in SLOTS for text in getattr(self, slot)):
            for token in _CONTROL_TOKEN.findall(text):
                require_token(tokenizer, token, template=name)
        if not self.end_of_turn:
            return tokenizer.eos_token_id
        return require_token(tokenizer, self.end_of_turn, template=name)

    def _trains(self, message: Message | None) -> bool:
        """Whether a prompt is trained on."""
        return self.train_prompts if message is None or message.train is None else message.train

    def _literal(self, slots: Slots, *, turn: int) -> Iterator[Span]:
        for slot in slots:
            yield Span(slot, self.train_prompts, turn)

    def _system(self, system: Message | None, tools: str) -> Rendered:
        text = (system.content if system else "") or self.default_system
        if not tools:
            return Rendered.of(text)
        described = describe_tools(self.tool_format, tools)
        if not text and not described.text:
            return Rendered("")
        return Rendered.of(text) + described

    def _prompt(self, message: Message, system: Rendered | None, turn: int) -> Iterator[Span]:
        slots = self.user if message.role == "user" else self.observation
        if system is None or not system.text:
            yield from _message_spans(slots, message.content, train=self._trains(message), turn=turn)
            return
        above = fill("".join(self.system), content=replace(system, content=None))
        content = above + Rendered.of(message.content)
        yield from _spans(slots, train=self._trains(message), turn=turn, content=content, idx=Rendered(str(turn)))

    def _results(self, messages: Sequence[Message], turn: int) -> Iterator[Span]:
        """Several results of tools in one turn, of which the last one may be shortened."""
        assert self.observation_joint is not None
        joined = Rendered("")
        for message in messages:
            joint = self.observation_joint if joined.data else ""
            joined = replace(joined, content=None) + Rendered(joint) + Rendered.of(message.content)
        if len({self._trains(message) for message in messages}) > 1:
            raise RejectError("several results of tools in one turn, of which only some are to be trained on")
        yield from _spans(self.observation, train=self._trains(messages[0]), turn=turn, content=joined)

    def _turns(self, messages: Sequence[Message]) -> list[_Turn]:
        """RejectError unless prompts and replies alternate, or the template has a form for what stands in a row."""
        plain = [_Turn((prompt,), reply) for prompt, reply in zip(messages[::2], messages[1::2], strict=False)]
        if plain and not len(messages) % 2 and all(turn.alternates for turn in plain):
            return plain
        turns: list[_Turn] = []
        rest = list(messages)
        while rest:
            prompts = [rest.pop(0)]
            while self.observation_joint is not None and prompts[0].role == _following(rest) == "observation":
                prompts.append(rest.pop(0))
            reply = rest.pop(0) if rest else prompts[0]
            is_called = self.call_joint is not None and reply.role == "assistant" and _following(rest) == "function"
            turns.append(_Turn(tuple(prompts), reply, rest.pop(0) if is_called else None))
        if not turns or not all(turn.alternates for turn in turns):
            raise RejectError("user and assistant do not alternate")
        return turns

    def _reply(self, message: Message, *, keep: bool) -> Reply:
        if self.thoughts is None:
            return Reply("", "", (), message.content)
        return self.thoughts.reply(message.content, thinking=self.thinking, keep=keep)

    def _answer(self, message: Message, reply: Reply, call: Message | None, turn: int) -> Iterator[Span]:
        train = True if message.train is None else message.train
        if call is not None and train != (True if call.train is None else call.train):
            raise RejectError("a reply and its tool call, of which only one is to be trained on")
        if reply.prefix:
            yield Span(reply.prefix, train, turn)
        if call is not None:
            # a thought alone brings its own blanks
            content = reply.rendered() + Rendered((self.call_joint or "") if reply.rest.strip("\n") else "")
            content += Rendered.join(self.tool_format.call(parse_calls(call.content)))
            yield from _spans(self.assistant, train=train, turn=turn, content=content)
        elif message.role == "assistant" and not reply.thought:
            yield from _message_spans(self.assistant, reply.rest, train=train, turn=turn)
        elif message.role == "assistant":
            yield from _spans(self.assistant, train=train, turn=turn, content=reply.rendered())
        else:
            yield from _spans(self.function, train=train, turn=turn, **self._call(reply))
        if self.efficient_eos:
            yield Span(self.end_of_turn, train, turn, elided=True)

    def _call(self, reply: Reply) -> dict[str, Rendered]:
        calls = parse_calls(reply.rest)
        if CONTENT in "".join(self.function):
            blank = reply.rest[: len(reply.rest) - len(reply.rest.lstrip())] if reply.thought else ""
            return {"content": Rendered.join([*reply.thought, blank, *self.tool_format.call(calls)])}
        if len(calls) > 1 or reply.thought:
            raise RejectError("several tool calls at once, or a thought before one, which the template cannot write")
        name, arguments = calls[0].name, calls[0].arguments_json
        return {"name": _data(name), "arguments": _data(arguments)}


def _data(text: str) -> Rendered:
    return Rendered(text, ((0, len(text)),))


def _following(messages: Sequence[Message]) -> str:
    return messages[0].role if messages else ""


def _message_spans(slots: Slots, text: str, *, train: bool, turn: int) -> Iterator[Span]:
    """As ``_spans`` for a message as it is, which nearly all are: a third of the time."""
    for slot in slots:
        parts = split_slot(slot)
        if len(parts) == 3 and parts[1] == "content":
            start = len(parts[0])
            if filled := f"{parts[0]}{text}{parts[2]}":
                yield Span(filled, train, turn, (start, start + len(text)))
        else:
            yield from _spans((slot,), train=train, turn=turn, content=Rendered.of(text), idx=Rendered(str(turn)))


def _spans(slots: Slots, *, train: bool, turn: int, **values: Rendered) -> Iterator[Span]:
    for slot in slots:
        rendered = fill(slot, **values)
        if rendered.text:
            yield rendered.span(train=train, turn=turn)


ALLOWED = {
    "prefix": frozenset(),
    "separator": frozenset(),
    "user": frozenset({"content", "idx"}),
    "observation": frozenset({"content", "idx"}),
    "system": frozenset({"content"}),
    "assistant": frozenset({"content"}),
    "function": frozenset({"content", "name", "arguments"}),
}
"""Which placeholders stand where, besides ``{{bos}}`` and ``{{eos}}``, which may stand anywhere."""


def _check_slots(name: str, slots: Slots) -> None:
    text = "".join(slots)
    for placeholder in PLACEHOLDER.findall(text):
        if placeholder not in ALLOWED[name] | {"bos", "eos"}:
            raise ConfigError("SP015", f"{name!r} cannot have {{{{{placeholder}}}}}")
    if name == "function" and CONTENT not in text:
        if text.count("{{name}}") != 1 or text.count("{{arguments}}") != 1:
            raise ConfigError("SP015", f"'function' must have {CONTENT}, or {{{{name}}}} and {{{{arguments}}}}, once")
    elif ALLOWED[name] and text.count(CONTENT) != 1:
        raise ConfigError("SP015", f"{name!r} must have {CONTENT} exactly once")


def template_keys() -> list[str]:
    """The keys a template file may have."""
    chosen = ("thinking", "train_prompts")
    return [item.name for item in dataclasses.fields(TextTemplate) if item.init and item.name not in chosen]
