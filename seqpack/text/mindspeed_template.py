"""How MindSpeed-LLM renders a conversation, for ``--compat mindspeed`` alone: with all that goes wrong on the way.

Sources: ``mindspeed_llm/tasks/preprocess/{templates,formatter}.py``. Messages are told apart by their place, not by who
speaks; braces in the data are filled in; tools it cannot describe become no text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from seqpack.core.errors import ConfigError, UncoveredError
from seqpack.core.types import Message, Sample, Span
from seqpack.text.mindspeed_entry import DEEPSEEK4, LF_DEFAULT, LLAMA2, OWN_FUNCTION, REASONING, Entry, Slots
from seqpack.text.template import BOS, EOS, TextTemplate
from seqpack.text.tokenizer import Tokenizer

NO_EOS = "<|endoftext|>"
"""Added where the tokenizer has no end token."""
_THOUGHT = re.compile(r"<think>(.*)</think>", re.DOTALL)
Texts = list[str]


class ExtendedTokenizer(Tokenizer):
    """The tokenizer with further special tokens; those it has keep their ids, ``new_tokens`` get new ones."""

    def __init__(self, directory: Path, tokens: Sequence[str]) -> None:
        self._extra = tuple(dict.fromkeys(tokens))
        super().__init__(directory)
        before = self._facts.vocab_size
        fast = self._tokenizer
        self.new_tokens = [token for token in self._extra if (fast.token_to_id(token) or 0) >= before]
        self._facts = replace(
            self._facts,
            vocab_size=max(fast.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
            added_tokens={token.content: number for number, token in fast.get_added_tokens_decoder().items()},
        )

    @functools.cached_property
    def _tokenizer(self) -> FastTokenizer:
        tokenizer: FastTokenizer = super()._tokenizer
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in self._extra])
        return tokenizer


class DocumentTokenizer(Tokenizer):
    """The tokenizer with the special tokens it adds to every text by itself."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encode_documents(texts)

    def digest(self) -> str:
        """Another one than of the plain tokenizer, with which a fast engine may agree."""
        return f"{super().digest()} documents"


def open_tokenizer(directory: Path, entry: Entry) -> tuple[ExtendedTokenizer, int, Entry]:
    """The tokenizer as their program changes it for a template, the id of its end token, and the template's entry.

    A token that must be one id and is not there becomes that of unknown ones; ConfigError if there is none of these.
    """
    plain = Tokenizer(directory)
    first, *others = entry.stop_words if entry.replace_eos else (plain.eos_token or NO_EOS, *entry.stop_words)
    tokenizer = ExtendedTokenizer(directory, [first, *others])
    for token in (first, *entry.tokens):
        if tokenizer.token_id(token) is None and tokenizer.unk_token is not None:
            entry = entry.with_token(token, tokenizer.unk_token)
        elif tokenizer.encode([token]) != [[tokenizer.token_id(token)]]:
            raise ConfigError(
                "SP016",
                f"template {entry.name!r} needs the token {token!r}, which {directory} does not have",
                help="choose the --prompt-type of this model, or its tokenizer",
            )
    end = tokenizer.token_id(first)
    assert end is not None
    tokenizer.eos_token = first
    return tokenizer, end, entry


@dataclass(frozen=True, slots=True)
class MindSpeedTemplate:
    """Renders a sample as spans: one for each text that is encoded alone, what is trained on being the reply.

    ``ours`` renders what has no slots (DeepSeek-V4). UncoveredError for a sample at which their program stops.
    """

    entry: Entry
    bos: str
    eos: str
    thinking: bool | None
    ours: TextTemplate | None = None

    def spans(self, sample: Sample) -> Iterator[Span]:
        """All turns, as in a set of samples."""
        if self.entry.kind == DEEPSEEK4:
            yield from self._deepseek4(sample)
            return
        messages, system = _split(sample)
        if self.entry.kind == REASONING and self.thinking is False:
            messages = [self._thoughtless(message) if place % 2 else message for place, message in enumerate(messages)]
        texts = self._texts(messages, system, sample.tools)
        for place in range(0, len(messages), 2):
            source, target = texts[place], texts[place + 1] if place + 1 < len(texts) else []
            if self.entry.kind == REASONING:
                source, target = self._with_empty_thought(messages[place + 1], source, target)
            yield from self._turn(place // 2, source, target)

    def last_turn(self, sample: Sample) -> tuple[Texts, Texts]:
        """Texts up to the last reply, and those of that reply, as in preference pairs."""
        if self.entry.kind == DEEPSEEK4:
            raise UncoveredError("preference pairs under the template 'deepseek4' are not known")
        messages, system = _split(sample)
        if self.entry.kind == REASONING:
            earlier = range(1, len(messages) - 2, 2)
            messages = [self._thoughtless(m) if place in earlier else m for place, m in enumerate(messages)]
            if self.thinking is False:
                messages[-1] = self._thoughtless(messages[-1])
        *before, answer = self._texts(messages, system, sample.tools)
        prompt = [text for texts in before for text in texts]
        if self.entry.kind == REASONING:
            prompt, answer = self._with_empty_thought(messages[-1], prompt, answer)
        return prompt, answer

    def _turn(self, turn: int, source: Texts, target: Texts) -> Iterator[Span]:
        for text in source:
            yield Span(text, False, turn)
        for text in target:
            yield Span(text, True, turn)
        if self.entry.efficient_eos:
            yield Span(self.eos, True, turn, elided=True)

    def _texts(self, messages: Sequence[Message], system: str, tools: str) -> list[Texts]:
        """The texts of each message, with what stands before it."""
        entry = self.entry
        found: list[Texts] = []
        for place, message in enumerate(messages):
            texts: list[str] = []
            above = ""
            if place == 0:
                texts += self._filled(entry.prefix)
                system = system or entry.default_system
                if system or tools:
                    body = self._filled(entry.system, content=system + self._described(tools))
                    if entry.kind == LLAMA2:
                        above = body[0] if body else ""
                    else:
                        texts += body
            elif place % 2 == 0 and entry.kind != LF_DEFAULT:
                texts += self._filled(entry.separator)
            found.append([text for text in [*texts, *self._message(message, above, place)] if text])
        return found

    def _message(self, message: Message, above: str, place: int) -> Texts:
        entry = self.entry
        if message.role == "user" and entry.kind == LLAMA2:
            return self._filled(entry.user, content=above + message.content)
        if message.role == "user":
            return self._filled(entry.user, content=message.content, idx=str(place // 2))
        if message.role == "assistant":
            return self._filled(entry.assistant, content=message.content)
        if message.role == "observation":
            return self._filled(entry.observation, content=message.content)
        if message.role == "function":
            return self._function(message.content)
        raise UncoveredError(f"a {message.role} message inside a conversation")

    def _filled(self, slots: Slots, **values: str) -> Texts:
        """Each placeholder filled in once, in this order: so those in the data may be, too."""
        texts = []
        for slot in slots:
            if slot in (BOS, EOS):
                texts.append(self.bos if slot == BOS else self.eos)
                continue
            for name, value in values.items():
                slot = slot.replace("{{" + name + "}}", value, 1)
            texts.append(slot)
        return texts

    def _function(self, content: str) -> Texts:
        if self.entry.name in OWN_FUNCTION:
            return self._own_function(content)
        try:
            call = json.loads(content)
            name, arguments = call["name"], json.dumps(call["arguments"], ensure_ascii=False)
        except Exception:  # as theirs: whatever is wrong, nothing is written
            name, arguments = "", ""
        if not isinstance(name, str):
            raise UncoveredError("a tool call whose name is not text")
        return [
            {BOS: self.bos, EOS: self.eos}.get(slot)
            or slot.replace("{{name}}", name).replace("{{arguments}}", arguments)
            for slot in self.entry.function
        ]

    def _own_function(self, content: str) -> Texts:
        if self.entry.tools != "ling":
            raise UncoveredError(f"a tool call under the template {self.entry.name!r}")
        thought = _THOUGHT.search(content)
        calls = content.replace(thought.group(0), "") if thought else content
        try:
            value = json.loads(calls)
            listed = [
                json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
                for call in (value if isinstance(value, list) else [value])
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UncoveredError("a tool call that is not JSON of name and arguments") from error
        text = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in listed)
        return self._filled(self.entry.function, content=(thought.group(0) if thought else "") + text)

    def _described(self, tools: str) -> str:
        """The text about tools: that of the default format, and nothing for what it does not understand."""
        if not tools:
            return ""
        if self.entry.name in OWN_FUNCTION:
            if _is_empty_list(tools):
                return ""
            raise UncoveredError(f"tools under the template {self.entry.name!r}")
        if self.entry.tools != "default":
            return ""
        try:
            return describe(json.loads(tools))
        except Exception:  # as theirs
            return ""

    def _thoughtless(self, message: Message) -> Message:
        opening, closing = map(re.escape, self.entry.thought)
        rest = re.sub(f"{opening}(.*?){closing}", "", message.content, flags=re.DOTALL).lstrip("\n")
        return message._replace(content=rest)

    def _with_empty_thought(self, reply: Message, source: Texts, target: Texts) -> tuple[Texts, Texts]:
        if any(mark in reply.content for mark in self.entry.thought):
            return source, target
        empty = "".join(self.entry.thought)
        return (source, [empty, *target]) if self.thinking else ([*source, empty], target)

    def _deepseek4(self, sample: Sample) -> Iterator[Span]:
        """Conversations without tools, in which the texts of a side are encoded together."""
        roles = {message.role for message in _split(sample)[0]}
        if sample.tools or not roles <= {"user", "assistant"} or self.ours is None:
            raise UncoveredError("tools and tool calls under the template 'deepseek4'")
        joined: dict[tuple[int, bool], str] = {}
        for span in self.ours.spans(sample):
            key = (span.turn, span.train)
            joined[key] = joined.get(key, "") + span.text
        for (turn, train), text in joined.items():
            yield Span(text, train, turn)


def describe(tools: Any) -> str:
    """Tools in their default format; an error of any kind for what is not of its form."""
    if not tools:
        return ""
    text, names = "", []
    for tool in tools:
        lines = ""
        for name, value in tool["parameters"]["properties"].items():
            needed = ", required" if name in tool["parameters"].get("required", []) else ""
            choices = f", should be one of [{', '.join(value['enum'])}]" if value.get("enum") else ""
            items = value.get("items")
            each = f", where each item should be {items.get('type', '')}" if items else ""
            lines += f"  - {name} ({value.get('type', '')}{needed}): {value.get('description', '')}{choices}{each}\n"
        text += f"> Tool Name: {tool['name']}\nTool Description: {tool.get('description', '')}\nTool Args:\n{lines}\n"
        names.append(tool["name"])
    return (
        f"You have access to the following tools:\n{text}Use the following format if using a tool:\n```\n"
        f"Action: tool name (one of [{', '.join(names)}]).\nAction Input: the input to the tool, in a JSON format "
        'representing the kwargs (e.g. ```{"input": "hello world", "num_beams": 5}```).\n```\n'
    )


def _split(sample: Sample) -> tuple[list[Message], str]:
    messages = list(sample.messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else ""
    return messages, system


def _is_empty_list(tools: str) -> bool:
    try:
        return len(json.loads(tools)) == 0
    except (ValueError, TypeError):
        return False
