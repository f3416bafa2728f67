"""A template as MindSpeed-LLM's ``templates.json`` has it, for ``--compat mindspeed``.

Our own files say the same but for what changes nothing in the text: the class of a template, its stop words, which it
adds to the tokenizer, and tool formats that it does not have in its code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.options.data import TextOptions
from seqpack.text.catalog import find_users
from seqpack.text.mindspeed_json import from_mindspeed
from seqpack.text.template import BOS, CONTENT, EOS, TextTemplate

TEMPLATE, LF_DEFAULT, LLAMA2, REASONING, DEEPSEEK4 = (
    "Template",
    "LFDefaultTemplate",
    "Llama2Template",
    "ReasoningTemplate",
    "DeepSeek4Template",
)
FUNCTION = "Action: {{name}}\nAction Input: {{arguments}}"
THOUGHT = ("<think>\n", "\n</think>\n\n")
CLASSES = {
    "qwen_lf": LF_DEFAULT,
    "llama2": LLAMA2,
    "glm4_moe": REASONING,
    "magistral": REASONING,
    "qwen3": REASONING,
    "gpt_oss": REASONING,
    "deepseek4": DEEPSEEK4,
}
_GLM = ("<|user|>", "<|observation|>")
STOP_WORDS: dict[str, tuple[str, ...]] = {
    "chatglm3": _GLM,
    "chatglm3_system": _GLM,
    "glm4": _GLM,
    "glm4_moe": _GLM,
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "chatml_de": ("<|im_end|>", "<|im_start|>"),
    "qwen": ("<|im_end|>",),
    "qwen_lf": ("<|im_end|>",),
    "qwen_r1": ("<|im_end|>",),
    "qwen_math_r1": ("<|im_end|>",),
    "qwen3": ("<|im_end|>",),
    "intern2": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "plm": ("<|endoftext|>",),
    "bailing_mini": ("<|endoftext|>",),
    "deepseek4": ("<｜end▁of▁sentence｜>",),
}
REPLACES_EOS = frozenset(
    {"chatml", "chatml_de", "qwen", "qwen_lf", "qwen_r1", "qwen_math_r1", "llama3", "qwen3", "plm"}
)
TOOLS = {
    "chatglm3": "glm4",
    "glm4": "glm4",
    "glm4_moe": "glm4_moe",
    "qwen3": "qwen",
    "bailing_mini": "ling",
    "deepseek4": "deepseek4",
}
"""Tool formats other than ``default``."""
GLM_FUNCTION = frozenset({"chatglm3_system", "glm4", "glm4_moe"})
OWN_FUNCTION = frozenset({"qwen3", "bailing_mini"})
"""Their function messages are written by code of their own."""

Slots = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Slots are encoded one by one; ``{{bos}}`` and ``{{eos}}`` stand alone. Each of ``tokens`` must be one id."""

    name: str
    kind: str
    user: Slots
    assistant: Slots
    system: Slots
    function: Slots
    observation: Slots
    separator: Slots
    prefix: Slots
    default_system: str
    stop_words: tuple[str, ...]
    replace_eos: bool
    efficient_eos: bool
    tools: str
    thought: tuple[str, str]
    tokens: tuple[str, ...]

    def with_token(self, token: str, other: str) -> Entry:
        """The same with another token in the place of one."""
        parts = {part: tuple(other if slot == token else slot for slot in getattr(self, part)) for part in _PARTS}
        return replace(self, **parts)  # type: ignore[arg-type]

    @property
    def is_short_side_first(self) -> bool:
        """Whether the cut keeps a side whole that needs less than half of the length."""
        return self.kind in (LF_DEFAULT, REASONING, DEEPSEEK4)


def entry_of(options: TextOptions, template: TextTemplate | None) -> Entry:
    """The entry that ``--prompt-type`` names; ``template`` is what our file of that name says.

    ConfigError for a template that MindSpeed-LLM does not have.
    """
    name = options.prompt_type
    mine = find_users(options).get(name)
    if mine is not None and mine.suffix == ".json":
        return from_json(json.loads(mine.text))
    if mine is not None or template is None:
        raise ConfigError(
            "SP027",
            f"--compat mindspeed: template {name!r} is not one of MindSpeed-LLM's",
            help="name one of its templates, give its templates.json with --prompt-type-path, or leave --compat out",
        )
    return from_template(name, template)


def from_template(name: str, template: TextTemplate) -> Entry:
    """Our own file of that name with what it leaves out."""
    efficient = template.efficient_eos
    function = ("{{name}}\n{{arguments}}",) if name in GLM_FUNCTION else (FUNCTION, *([] if efficient else [EOS]))
    thoughts = template.thoughts
    return Entry(
        name=name,
        kind=CLASSES.get(name, TEMPLATE),
        user=_alone(template.user),
        assistant=_alone(template.assistant),
        system=_alone(template.system),
        function=template.function if name in OWN_FUNCTION else function,
        observation=_alone(template.observation),
        separator=_alone(template.separator),
        prefix=_alone(template.prefix),
        default_system=template.default_system,
        stop_words=STOP_WORDS.get(name, ()),
        replace_eos=name in REPLACES_EOS,
        efficient_eos=efficient,
        tools=TOOLS.get(name, "default"),
        thought=(thoughts.opening, thoughts.closing) if thoughts else THOUGHT,
        tokens=tuple(token for token in template.tokens if any(token in getattr(template, part) for part in _PARTS)),
    )


_PARTS = ("user", "assistant", "system", "observation", "separator", "prefix")


def from_json(entry: Mapping[str, Any]) -> Entry:
    """An object of their file. ConfigError for what is wrong in it."""
    from_mindspeed(entry)  # says what is wrong
    eos = () if entry.get("efficient_eos") else (EOS,)
    tokens: list[str] = []

    def slots(part: str, default: Slots) -> Slots:
        found = (entry.get(f"format_{part}") or {}).get("slots")
        return default if not found else tuple(_slot(slot, tokens) for slot in found)

    user = slots("user", (CONTENT,))
    words = entry.get("thought_words") or THOUGHT
    return Entry(
        name=entry["name"],
        kind=entry.get("template_class") or TEMPLATE,
        user=user,
        assistant=slots("assistant", (CONTENT, *eos)),
        system=slots("system", (CONTENT,)),
        function=slots("function", (FUNCTION, *eos)),
        observation=slots("observation", user),
        separator=slots("separator", ()),
        prefix=slots("prefix", ()),
        default_system="".join(entry.get("default_system") or ""),
        stop_words=tuple(entry.get("stop_words") or ()),
        replace_eos=bool(entry.get("replace_eos")),
        efficient_eos=bool(entry.get("efficient_eos")),
        tools="".join((entry.get("format_tools") or {}).get("tool_format") or "default"),
        thought=(words[0], words[1]),
        tokens=tuple(tokens),
    )


def _slot(slot: Any, tokens: list[str]) -> str:
    if isinstance(slot, Mapping):
        tokens.append(str(slot["token"]))
        return tokens[-1]
    return slot if isinstance(slot, str) else {"bos_token": BOS, "eos_token": EOS}[slot[0]]


def _alone(slots: Slots) -> Slots:
    """The same slots with the tokens cut out of the texts around them."""
    parts: list[str] = []
    for slot in slots:
        for number, before in enumerate(slot.split(EOS)):
            parts += [EOS] if number else []
            for place, text in enumerate(before.split(BOS)):
                parts += [BOS] if place else []
                parts += [text] if text else []
    return tuple(parts)
