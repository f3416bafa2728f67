"""Template files: YAML, one template each.

Keys: ``user`` and ``assistant`` (required), ``system``, ``function`` (a tool call), ``observation`` (what a tool
returned), ``prefix``, ``separator``, ``tools`` (a tool format), ``call_joint``, ``observation_joint``,
``default_system``, ``end_of_turn``, ``efficient_eos``, ``system_in_user``, ``thoughts``, ``tokens``. A part is text, or
a list of texts that are tokenized one by one, of which ``{token: X}`` must be one token. ``{{content}}`` stands for the
message, ``{{idx}}`` for the number of the turn, ``{{bos}}`` and ``{{eos}}`` for the tokenizer's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import yaml

from seqpack.core.errors import ConfigError
from seqpack.core.suggest import did_you_mean
from seqpack.text.template import SLOTS, TextTemplate, template_keys
from seqpack.text.thoughts import Thoughts, ThoughtStyle

TEXTS = ("default_system", "end_of_turn", "tools", "call_joint", "observation_joint")
FLAGS = ("efficient_eos", "system_in_user")
REQUIRED = ("user", "assistant")


def parse_template(text: str) -> TextTemplate:
    """Read a template file; ConfigError for an unknown or missing key, or a value of the wrong kind."""
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("SP015", f"not valid YAML: {error}") from error
    return template_from(value)


def template_from(value: Any) -> TextTemplate:
    """The template a file's content describes; ConfigError as ``parse_template``."""
    known = template_keys()
    if not isinstance(value, dict):
        raise ConfigError("SP015", f"a template file is a mapping of {', '.join(known)}")
    for key in value:
        if key not in known:
            raise ConfigError(
                "SP015", f"unknown key {key!r}; {did_you_mean(str(key), known)} known: {', '.join(known)}"
            )
    if missing := [name for name in REQUIRED if name not in value]:
        raise ConfigError("SP015", f"key {missing[0]!r} is missing")
    tokens: list[str] = [_text("tokens", token) for token in _list("tokens", value.get("tokens", []))]
    parts: dict[str, Any] = {name: _slots(name, value[name], tokens) for name in SLOTS if name in value}
    parts |= {name: _text(name, value[name]) for name in TEXTS if name in value}
    parts |= {name: _flag(name, value[name]) for name in FLAGS if name in value}
    if "thoughts" in value:
        parts["thoughts"] = _thoughts(value["thoughts"])
    return TextTemplate(**parts, tokens=tuple(tokens))


def _slots(name: str, value: Any, tokens: list[str]) -> tuple[str, ...]:
    """A part as texts; those that must be one token are added to ``tokens``."""
    slots = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and list(item) == ["token"]:
            slots.append(_text(f"{name}: token", item["token"]))
            tokens.append(slots[-1])
        else:
            slots.append(_text(name, item))
    return tuple(slot for slot in slots if slot)


def _thoughts(value: Any) -> Thoughts:
    if value is True:
        return Thoughts()
    known = ("opening", "closing", "style")
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise ConfigError("SP015", f"'thoughts' is true, or a mapping of {', '.join(known)}")
    if value.get("style", "empty") not in get_args(ThoughtStyle):
        raise ConfigError("SP015", f"'thoughts': style is one of {', '.join(get_args(ThoughtStyle))}")
    parts: Mapping[str, Any] = {name: _text(f"thoughts: {name}", part) for name, part in value.items()}
    if not all(parts.get(name, "x").strip() for name in ("opening", "closing")):
        raise ConfigError("SP015", "'thoughts': opening and closing cannot be blank")
    return Thoughts(**parts)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError("SP015", f"{name!r} must be text, not {type(value).__name__}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("SP015", f"{name!r} must be true or false, not {type(value).__name__}")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError("SP015", f"{name!r} must be a list, not {type(value).__name__}")
    return value
