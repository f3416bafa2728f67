"""MindSpeed-LLM's rules for templates once more, slow and straight from its ``templates.json``: what ours are held to.

Shares no code with ``seqpack.text``. Written from the rules in their ``templates.py`` (c77308a1): every slot is encoded
alone, the end token is a slot, and so on. Tools only in the format ``default``, which is the one that works there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

IGNORE = -100
Pair = tuple[str, str]


@dataclass
class Rules:
    """``entry`` is an object of the file; ``tokenizer`` a ``tokenizers.Tokenizer``."""

    entry: dict[str, Any]
    tokenizer: Any
    bos: str
    eos: str
    thinking: bool | None = None

    def __post_init__(self) -> None:
        if self.entry.get("replace_eos"):
            self.eos = self.entry["stop_words"][0]
        self.efficient = self.entry.get("efficient_eos", False)
        self.kind = self.entry.get("template_class", "Template")
        self.words = self.entry.get("thought_words") or ["<think>\n", "\n</think>\n\n"]

    def render(self, messages: list[tuple[str, str]], system: str = "", tools: str = "") -> list[Pair]:
        """(source, target) of every turn as lists of texts, each to be encoded alone."""
        if self.kind == "DeepSeek4Template":
            return self._deepseek4(messages, system)
        system = system or self.entry.get("default_system", "")
        pairs = []
        for index in range(0, len(messages), 2):
            (role, text), (reply_role, reply) = messages[index], messages[index + 1]
            source: list[str] = []
            above = ""
            if index == 0:
                source += self._slots("prefix", [], "")
                if system or tools:
                    body = system + (describe(tools) if tools else "")
                    if self.kind == "Llama2Template":
                        above = self._slots("system", ["{{content}}"], body)[0]
                    else:
                        source += self._slots("system", ["{{content}}"], body)
            elif self.kind != "LFDefaultTemplate":
                source += self._slots("separator", [], "")
            users = (self.entry.get("format_user") or {}).get("slots", ["{{content}}"])
            source += self._slots(role, users, above + text, idx=str(index // 2))
            reply, prompt_thought, reply_thought = self._thoughts(reply)
            source += prompt_thought
            pairs.append((source, reply_thought + self._reply(reply_role, reply)))
        return pairs

    def encode(self, pairs: list[Pair]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for turn, (source, target) in enumerate(pairs):
            source_ids, target_ids = self._ids(source), self._ids(target)
            masked = [IGNORE] * len(source_ids)
            if self.efficient and turn:
                masked[0] = self._ids([self.eos])[0]
            ids += source_ids + target_ids
            labels += masked + target_ids
        if self.efficient:
            ids += self._ids([self.eos])
            labels += self._ids([self.eos])
        return ids, labels

    def _ids(self, texts: list[str]) -> list[int]:
        return [i for text in texts if text for i in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def _reply(self, role: str, text: str) -> list[str]:
        end = [] if self.efficient else [["eos_token"]]
        if role == "assistant":
            return self._slots("assistant", ["{{content}}", *end], text)
        call = json.loads(text)
        values = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        return self._slots("function", ["Action: {{name}}\nAction Input: {{arguments}}", *end], text, **values)

    def _slots(self, part: str, default: list[Any], content: str, **values: str) -> list[str]:
        texts = []
        for slot in (self.entry.get(f"format_{part}") or {}).get("slots", default):
            if isinstance(slot, dict):
                texts.append(slot["token"])
            elif isinstance(slot, list):
                texts.append(self.bos if slot == ["bos_token"] else self.eos)
            else:
                for name, value in {**values, "content": content}.items():
                    slot = slot.replace("{{" + name + "}}", value, 1)
                texts.append(slot)
        return texts

    def _thoughts(self, reply: str) -> tuple[str, list[str], list[str]]:
        if self.kind != "ReasoningTemplate":
            return reply, [], []
        first, second = self.words
        if self.thinking is False:
            reply = re.sub(f"{re.escape(first)}(.*?){re.escape(second)}", "", reply, flags=re.DOTALL).lstrip("\n")
        empty = [first + second] if first not in reply and second not in reply else []
        return (reply, [], empty) if self.thinking else (reply, empty, [])

    def _deepseek4(self, messages: list[tuple[str, str]], system: str) -> list[Pair]:
        pairs: list[Pair] = []
        turns = len(messages) // 2
        for turn in range(turns):
            text, reply = messages[2 * turn][1], messages[2 * turn + 1][1]
            head = "<｜begin▁of▁sentence｜>" + system if turn == 0 else ""
            thought, rest = "", reply
            if match := re.match(r"^\s*<think>\s*(.*?)\s*</think>\s*", reply, re.DOTALL):
                thought, rest = match.group(1), reply[match.end() :]
            opened = bool(self.thinking) and turn == turns - 1
            source = f"{head}<｜User｜>{text}<｜Assistant｜>" + ("<think>" if opened else "</think>")
            target = (thought + "</think>" if opened else "") + rest + "<｜end▁of▁sentence｜>"
            pairs.append(([source], [target]))
        return pairs


def describe(tools: str) -> str:
    """Tools in the default format."""
    text, names = "", []
    for tool in json.loads(tools):
        lines = ""
        for name, parameter in tool["parameters"]["properties"].items():
            required = ", required" if name in tool["parameters"]["required"] else ""
            lines += f"  - {name} ({parameter['type']}{required}): {parameter['description']}\n"
        text += f"> Tool Name: {tool['name']}\nTool Description: {tool['description']}\nTool Args:\n{lines}\n"
        names.append(tool["name"])
    return (
        f"You have access to the following tools:\n{text}Use the following format if using a tool:\n```\n"
        f"Action: tool name (one of [{', '.join(names)}]).\nAction Input: the input to the tool, in a JSON format "
        'representing the kwargs (e.g. ```{"input": "hello world", "num_beams": 5}```).\n```\n'
    )
