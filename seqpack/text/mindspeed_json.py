"""MindSpeed-LLM's ``templates.json`` (a list of objects) as template files of ours.

| theirs | ours |
|---|---|
| ``format_X: {slots: [...]}`` | ``X``: a list of texts |
| a slot ``["bos_token"]`` | ``{{bos}}`` |
| a slot ``["eos_token"]`` | ``{{eos}}``, or ``stop_words[0]`` under ``replace_eos`` |
| a slot ``{"token": T}`` | ``{token: T}`` |
| no ``format_assistant``, no ``format_function`` | the content, and the end token unless ``efficient_eos`` |
| ``format_tools.tool_format`` | ``tools`` |
| ``template_class`` Llama2Template | ``system_in_user`` |
| LFDefaultTemplate | no ``separator`` |
| ReasoningTemplate, ``thought_words`` | ``thoughts`` |
| DeepSeek4Template | the parts it has in its code |
| ``stop_words`` but the first, ``force_system`` | nothing: no text or label depends on them |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.core.suggest import did_you_mean
from seqpack.text.template import BOS, CONTENT, EOS

CLASSES = ("Template", "LFDefaultTemplate", "Llama2Template", "ReasoningTemplate", "DeepSeek4Template")
PARTS = ("user", "assistant", "system", "function", "observation", "tools", "separator", "prefix")
KEYS = (
    "name",
    *(f"format_{part}" for part in PARTS),
    "default_system",
    "stop_words",
    "thought_words",
    "efficient_eos",
    "replace_eos",
    "force_system",
    "template_class",
)
_ENDING = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>$")

DEEPSEEK4: dict[str, Any] = {
    "prefix": "<｜begin▁of▁sentence｜>",
    "system": CONTENT,
    "user": f"<｜User｜>{CONTENT}<｜Assistant｜>",
    "assistant": f"{CONTENT}<｜end▁of▁sentence｜>",
    "function": f"{CONTENT}<｜end▁of▁sentence｜>",
    "observation": f"<｜User｜><tool_result>{CONTENT}</tool_result><｜Assistant｜>",
    "tools": "deepseek4",
    "thoughts": {"opening": "<think>", "closing": "</think>", "style": "prompted"},
    "end_of_turn": "<｜end▁of▁sentence｜>",
}


def from_mindspeed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One object of the file as the content of a template file. ConfigError for what has no counterpart."""
    for key in entry:
        if key not in KEYS:
            raise ConfigError("SP015", f"unknown key {key!r}; {did_you_mean(key, KEYS)} known: {', '.join(KEYS)}")
    kind = entry.get("template_class") or "Template"
    if kind not in CLASSES:
        raise ConfigError("SP015", f"no template_class {kind!r}; {did_you_mean(kind, CLASSES)}".rstrip("; "))
    if kind == "DeepSeek4Template":
        return dict(DEEPSEEK4)
    efficient = bool(entry.get("efficient_eos"))
    eos = _end_token(entry)
    value = _parts(entry, eos, [] if efficient else [eos])
    if kind == "LFDefaultTemplate":
        value.pop("separator", None)
    elif kind == "Llama2Template":
        value["system_in_user"] = True
    elif kind == "ReasoningTemplate":
        words = entry.get("thought_words")
        value["thoughts"] = {"opening": words[0], "closing": words[1]} if words else True
    if efficient:
        return value | {"efficient_eos": True}
    return value | {"end_of_turn": _end_of(value["assistant"], eos)}


def _parts(entry: Mapping[str, Any], eos: str, ending: list[str]) -> dict[str, Any]:
    """What stands around the messages; a reply that has no format of its own ends with ``ending``."""
    value: dict[str, Any] = {"user": CONTENT, "assistant": [CONTENT, *ending], "function": [CONTENT, *ending]}
    for part in PARTS:
        if part != "tools" and (slots := (entry.get(f"format_{part}") or {}).get("slots")):
            value[part] = [_slot(slot, eos) for slot in slots]
    if tools := (entry.get("format_tools") or {}).get("tool_format"):
        value["tools"] = tools
    if entry.get("default_system"):
        value["default_system"] = entry["default_system"]
    return value


def _end_token(entry: Mapping[str, Any]) -> str:
    if not entry.get("replace_eos"):
        return EOS
    stop_words = entry.get("stop_words")
    if not stop_words:
        raise ConfigError("SP015", "replace_eos needs stop_words")
    return str(stop_words[0])


def _slot(slot: Any, eos: str) -> Any:
    if slot in (["bos_token"], ["eos_token"]):
        return BOS if slot == ["bos_token"] else eos
    if isinstance(slot, str) or (isinstance(slot, dict) and list(slot) == ["token"]):
        return slot
    raise ConfigError("SP015", f"a slot is text, {{'token': ...}}, ['bos_token'] or ['eos_token'], not {slot!r}")


def _end_of(assistant: list[Any], eos: str) -> str:
    """The token the reply ends with: the end token, a token written out, or none at all."""
    last = assistant[-1]
    if not isinstance(last, str):
        return str(last["token"])
    match = _ENDING.search(last.rstrip())
    return eos if last == eos else match.group() if match else ""
