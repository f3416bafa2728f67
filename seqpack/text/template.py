"""Prompt templates: a YAML file per template, rendered to spans that are tokenized one by one.

Keys of a file: ``user``, ``assistant`` (required), ``system``, ``separator`` (before every turn but the first),
``default_system``, ``end_of_turn`` (the token a reply ends with, trained on). ``{{content}}`` stands for the message,
``{{eos}}`` for the tokenizer's end-of-text token.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from seqpack.core.errors import ConfigError, PluginError, RejectError
from seqpack.core.suggest import did_you_mean
from seqpack.core.types import Message, Sample, Span
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PromptTemplate
from seqpack.text.tokenizer import Tokenizer, require_token

CONTENT = "{{content}}"
EOS = "{{eos}}"
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A template of fixed strings around each message; every assistant turn is trained on, its end token included."""

    user: str
    assistant: str
    system: str = CONTENT
    separator: str = ""
    default_system: str = ""
    end_of_turn: str = EOS

    def __post_init__(self) -> None:
        for name in ("user", "assistant", "system"):
            if getattr(self, name).count(CONTENT) != 1:
                raise ConfigError("SP015", f"{name!r} must have {CONTENT} exactly once")
        if not self.assistant.rstrip().endswith(self.end_of_turn):
            raise ConfigError("SP015", f"'assistant' must end with 'end_of_turn', which is {self.end_of_turn!r}")

    def with_eos(self, eos_token: str) -> TextTemplate:
        """The same template with ``{{eos}}`` filled in."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return TextTemplate(**{name: value.replace(EOS, eos_token) for name, value in values.items()})

    def spans(self, sample: Sample) -> Iterator[Span]:
        """System and first user turn, reply, then separator, user turn and reply for each further exchange.

        Raises RejectError unless user and assistant alternate after an optional system message.
        """
        messages = list(sample.messages)
        system = messages.pop(0).content if messages and messages[0].role == "system" else self.default_system
        roles = [message.role for message in messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise RejectError("user and assistant do not alternate")
        if system:
            yield _span(self.system, system)
        for turn, (user, reply) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
            if turn and self.separator:
                yield Span(self.separator, train=False, turn=turn)
            yield _span(self.user, user.content, train=_trained(user, False), turn=turn)
            yield _span(self.assistant, reply.content, train=_trained(reply, True), turn=turn)

    def check_tokens(self, tokenizer: Tokenizer, *, name: str) -> int:
        """The id of ``end_of_turn``; ConfigError if the tokenizer lacks it or another control token of the template."""
        for text in (self.system, self.user, self.assistant, self.separator):
            for token in _CONTROL_TOKEN.findall(text):
                require_token(tokenizer, token, template=name)
        return require_token(tokenizer, self.end_of_turn, template=name)


def load_template(component: Component[PromptTemplate], tokenizer: Tokenizer) -> PromptTemplate:
    """The template behind a name, ready for this tokenizer.

    Raises PluginError for a broken file, ConfigError if the tokenizer does not have the tokens the template is made of.
    """
    text = template_text(component)
    if text is None:
        template: PromptTemplate = component.create()
        return template
    try:
        parsed = parse_template(text)
    except ConfigError as error:
        raise PluginError(error.code, f"template {component.name!r} ({component.target}): {error.message}") from error
    if EOS in f"{parsed.assistant}{parsed.end_of_turn}" and tokenizer.eos_token is None:
        raise ConfigError(
            "SP016",
            f"template {component.name!r} ends replies with the end-of-text token; {tokenizer.directory} names none",
            help="add eos_token to its tokenizer_config.json",
        )
    return parsed.with_eos(tokenizer.eos_token or "")


def template_text(component: Component[PromptTemplate]) -> str | None:
    """The YAML of a template that is a file, None for one that is a Python class."""
    if not component.target.endswith((".yaml", ".yml")):
        return None
    package, colon, name = component.target.partition(":")
    try:
        source = files(package).joinpath(name) if colon else Path(component.target)
        return source.read_text(encoding="utf-8")
    except Exception as error:  # reading a file of a package imports the package, which may do anything
        raise PluginError("SP012", f"template file {component.target} of {component.plugin!r}: {error}") from error


def parse_template(text: str) -> TextTemplate:
    """Read a template file; ConfigError for an unknown or missing key, or a value that is not text."""
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("SP015", f"not valid YAML: {error}") from error
    known = [field.name for field in dataclasses.fields(TextTemplate)]
    if not isinstance(value, dict):
        raise ConfigError("SP015", f"a template file is a mapping of {', '.join(known)}")
    for key, part in value.items():
        if key not in known:
            raise ConfigError(
                "SP015", f"unknown key {key!r}; {did_you_mean(str(key), known)} known: {', '.join(known)}"
            )
        if not isinstance(part, str):
            raise ConfigError("SP015", f"{key!r} must be text, not {type(part).__name__}")
    if missing := [name for name in ("user", "assistant") if name not in value]:
        raise ConfigError("SP015", f"key {missing[0]!r} is missing")
    return TextTemplate(**value)


def _span(pattern: str, content: str, *, train: bool = False, turn: int = 0) -> Span:
    before, _, after = pattern.partition(CONTENT)
    return Span(before + content + after, train, turn, (len(before), len(before) + len(content)))


def _trained(message: Message, default: bool) -> bool:
    return default if message.train is None else message.train
