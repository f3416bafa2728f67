"""MindSpeed-LLM's preprocessing once more, slow and straight: rows and flags in, bytes of all files out.

Shares no code with ``seqpack``. Written from the rules of its ``data_handler.py``, ``utils.py``, ``templates.py`` and
``formatter.py``; templates come from its ``templates.json``. ``CrashError`` stands for an exception of theirs.
"""

from __future__ import annotations

import json
import re
import struct
from array import array
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

IGNORE = -100
Item = dict[str, list[list[int]]]
"""Columns of a row, each a list of sequences."""


class CrashError(Exception):
    """Their program would stop."""


@dataclass
class Flags:
    """Their command line."""

    handler: str
    prompt_type: str | None = None
    map_keys: dict[str, Any] = field(default_factory=dict)
    json_keys: tuple[str, ...] = ("text",)
    seq_length: int | None = None
    pack: bool = False
    neat_pack: bool = False
    append_eod: bool = False
    enable_thinking: str = "none"
    n_subs: int = 1
    pad_to_multiple_of: int = 1
    additional_keys: tuple[str, ...] = ()

    @property
    def thinking(self) -> bool | None:
        return {"true": True, "false": False, "none": None}[self.enable_thinking]


class Program:
    """``templates`` is a path to their ``templates.json``, ``tokenizer`` a directory."""

    def __init__(self, flags: Flags, tokenizer: Path, templates: Path) -> None:
        self.flags = flags
        self.tok = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        self.tok.no_truncation()
        self.tok.no_padding()
        config = json.loads((tokenizer / "tokenizer_config.json").read_text())
        self.bos, self.eos, self.pad = (config.get(f"{name}_token") for name in ("bos", "eos", "pad"))
        self.unk = config.get("unk_token")
        self.t: dict[str, Any] = {}
        if flags.prompt_type:
            entries = {entry["name"]: entry for entry in json.loads(templates.read_bytes())}
            self.t = entries[flags.prompt_type]
            self._fix_tokenizer()
        self.kind = self.t.get("template_class", "Template")
        self.efficient = self.t.get("efficient_eos", False)
        self.words = self.t.get("thought_words") or ["<think>\n", "\n</think>\n\n"]

    def _fix_tokenizer(self) -> None:
        stop = list(self.t.get("stop_words") or [])
        if self.t.get("replace_eos"):
            self.eos = stop.pop(0)
            self._add(self.eos)
        if self.eos is None:
            self.eos = "<|endoftext|>"
            self._add(self.eos)
        self.pad = self.pad or self.eos
        for word in stop:
            self._add(word)

    def _add(self, token: str) -> None:
        self.tok.add_special_tokens([AddedToken(token, special=True, normalized=False)])

    def id(self, token: str) -> int:
        number = self.tok.token_to_id(token)
        if number is None and self.unk:
            number = self.tok.token_to_id(self.unk)
        if number is None:
            raise CrashError(token)
        return int(number)

    def ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.tok.encode(text, add_special_tokens=special).ids)

    # rows

    def items(self, rows: list[dict[str, Any]]) -> list[Item]:
        """What each row that is not left out becomes."""
        columns = {key for row in rows for key in row}
        rows = [{column: row.get(column) for column in columns} for row in rows]
        handler = self.flags.handler
        if "Pretrain" in handler:
            return [self.documents(row) for row in rows]
        if handler in ("GeneralInstructionHandler", "BelleMultiTurnInstructionHandler"):
            return [self.prompter(row) for row in rows]
        read = self.alpaca if "Alpaca" in handler else self.openai if "OpenAI" in handler else self.sharegpt
        made = []
        for row in rows:
            prompt, responses, system, tools = read(row)
            if prompt and responses:
                made.append(self.tokenized(row, prompt, responses, system or "", tools or ""))
        return made

    def tokenized(self, row: Any, prompt: Any, responses: Any, system: str, tools: str) -> Item:
        if "Pairwise" in self.flags.handler:
            return self.pair(prompt, responses, system, tools)
        odd = len(prompt) % 2 == 1 and len(responses) == 1
        messages = prompt + responses if odd else [("user", ""), ("assistant", "")]
        limit = self.flags.seq_length if self.flags.seq_length is not None else 100000
        turns = self.multiturn(messages, system, tools, limit)
        if self.flags.handler.startswith("PPO"):
            ids = [number for source, _ in turns for number in source]
            return {"input_ids": [ids], "attention_mask": [[1] * len(ids)]}
        if self.flags.handler.startswith("R1"):
            ids = []
            for number, (source, target) in enumerate(turns):
                ids += source + (target if number < len(turns) - 1 else [])
            item = {"input_ids": [ids], "attention_mask": [[1] * len(ids)]}
            for key in self.flags.additional_keys:
                item[key] = [self.ids(responses[-1][1] if key == "labels" else row[key])]
            return item
        return self.sample(turns)

    def sample(self, turns: list[tuple[list[int], list[int]]]) -> Item:
        ids: list[int] = []
        labels: list[int] = []
        for number, (source, target) in enumerate(turns):
            masked = [IGNORE] * len(source)
            if number and self.efficient:
                masked = [self.id(self.eos), *masked[1:]]
            if self.flags.neat_pack:
                assert self.flags.seq_length is not None
                a, b = infer(len(source), len(target), self.flags.seq_length - 1)
                source, masked, target = source[:a], masked[:a], target[:b]
            ids += source + target
            labels += masked + target
        if self.efficient:
            ids.append(self.id(self.eos))
            labels.append(self.id(self.eos))
        if self.flags.append_eod:
            ids.append(self.id(self.eos))
            labels.append(self.id(self.eos))
        return {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "labels": [labels]}

    def pair(self, prompt: Any, responses: Any, system: str, tools: str) -> Item:
        if len(responses) < 2:
            raise CrashError("index")
        source, chosen = self.oneturn([*prompt, responses[0]], system, tools)
        _, rejected = self.oneturn([*prompt, responses[1]], system, tools)
        if self.efficient:
            chosen, rejected = [*chosen, self.id(self.eos)], [*rejected, self.id(self.eos)]
        item = {}
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            item[f"{name}_input_ids"] = [source + answer]
            item[f"{name}_labels"] = [[IGNORE] * len(source) + answer]
        return item

    def alpaca(self, row: Any) -> Any:
        names = {"prompt": "instruction", "query": "input", "response": "output", "chosen": "chosen",
                 "rejected": "rejected"} | self.flags.map_keys  # fmt: skip

        def get(part: str) -> Any:
            name = names.get(part)
            if name and name not in row:
                raise CrashError(name)
            return row[name] if name else None

        prompt = []
        if isinstance(get("history"), list | dict):
            for user, reply in get("history"):
                prompt += [("user", user), ("assistant", reply)]
        prompt.append(("user", "\n".join(get(part) for part in ("prompt", "query") if get(part))))
        if "Pairwise" in self.flags.handler:
            chosen, rejected = get("chosen"), get("rejected")
            if isinstance(chosen, list):
                answers = [chosen[0], rejected[1]]
            else:
                answers = [chosen, rejected] if isinstance(chosen, str) else []
        else:
            response = get("response")
            answers = response if isinstance(response, list) else [response] if isinstance(response, str) else []
        return prompt, [("assistant", answer) for answer in answers], get("system"), ""

    def sharegpt(self, row: Any) -> Any:
        nothing: Any = ([], [], "", "")
        keys = ("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")
        words = ("from", "value", "human", "gpt", "observation", "function_call", "system")
        tags: Any = dict(zip(keys, words, strict=True))
        if "tags" in self.flags.map_keys:
            tags = {key: self.flags.map_keys["tags"].get(key) for key in keys}
        role, content, user, assistant, observation, function, system_tag = (tags[key] for key in keys)
        names = {"user": user, "assistant": assistant, "observation": observation, "function": function,
                 "system": system_tag}  # fmt: skip
        who = {word: name for name, word in names.items()}
        messages = row[self.flags.map_keys.get("messages", "conversations")]
        if system_tag and messages[0][role] == system_tag:
            system, messages = messages[0][content], messages[1:]
        else:
            system = row[self.flags.map_keys["system"]] if self.flags.map_keys.get("system") else ""
        if not messages:
            return nothing
        broken, aligned = False, []
        for place, message in enumerate(messages):
            allowed = (assistant, function) if place % 2 else (user, observation)
            broken |= message.get(role) not in allowed
            if message.get(content) is not None:
                aligned.append((who.get(message.get(role), "unknown"), message[content]))
        ranking = "Pairwise" in self.flags.handler
        if ranking == (len(aligned) % 2 == 0):
            return nothing
        prompt, responses = aligned[:-1], aligned[-1:]
        if ranking and isinstance(row["chosen"], dict) and isinstance(row["rejected"], dict):
            broken |= any(row[name][role] not in (assistant, function) for name in ("chosen", "rejected"))
            prompt = aligned
            responses = [(who.get(row[name][role]), row[name][content]) for name in ("chosen", "rejected")]
        if broken:
            return nothing
        return prompt, responses, system, row[self.flags.map_keys["tools"]] if self.flags.map_keys.get("tools") else ""

    def openai(self, row: Any) -> Any:
        nothing: Any = ([], [], "", "")
        who = {"user": "user", "assistant": "assistant", "tool": "observation", "function_call": "function",
               "system": "system"}  # fmt: skip
        names = {"messages": "messages", "tools": "tools"} | self.flags.map_keys
        messages = row[names["messages"]]
        system = row[names["system"]] if names.get("system") else ""
        if messages and messages[0]["role"] == "system":
            system, messages = messages[0]["content"], messages[1:]
        aligned = [(who.get(message["role"]), message.get("content") or "") for message in messages]
        if not aligned or any(role is None for role, _ in aligned):
            return nothing
        if aligned[0][0] not in ("user", "system") or aligned[-1][0] != "assistant":
            return nothing
        tools = row[names["tools"]] if names.get("tools") else ""
        tools = json.dumps(tools, ensure_ascii=False) if isinstance(tools, list | dict) else tools
        return aligned[:-1], aligned[-1:], system, tools

    # templates

    def multiturn(self, messages: Any, system: str, tools: str, limit: int) -> list[tuple[list[int], list[int]]]:
        messages = [list(message) for message in messages]
        reasoning = self.kind == "ReasoningTemplate"
        if reasoning and self.flags.thinking is False:
            for message in messages[1::2]:
                message[1] = self.thoughtless(message[1])
        encoded = self.encoded(messages, system, tools)
        if reasoning:
            for place in range(0, len(messages), 2):
                self.empty_thought(encoded, place, messages[place + 1][1])
        return self.pairs(encoded, limit)

    def oneturn(self, messages: Any, system: str, tools: str) -> tuple[list[int], list[int]]:
        messages = [list(message) for message in messages]
        reasoning = self.kind == "ReasoningTemplate"
        if reasoning:
            for place in range(1, len(messages) - 2, 2):
                messages[place][1] = self.thoughtless(messages[place][1])
            if self.flags.thinking is False:
                messages[-1][1] = self.thoughtless(messages[-1][1])
        encoded = self.encoded(messages, system, tools)
        last = [[number for ids in encoded[:-1] for number in ids], encoded[-1]]
        if reasoning:
            self.empty_thought(last, 0, messages[-1][1])
        return last[0], last[1]

    def thoughtless(self, text: str) -> str:
        first, second = map(re.escape, self.words)
        return re.sub(f"{first}(.*?){second}", "", text, flags=re.DOTALL).lstrip("\n")

    def empty_thought(self, encoded: list[list[int]], place: int, reply: str) -> None:
        if self.words[0] not in reply and self.words[1] not in reply:
            empty = self.ids("".join(self.words))
            if self.flags.thinking:
                encoded[place + 1] = empty + encoded[place + 1]
            else:
                encoded[place] = encoded[place] + empty

    def pairs(self, encoded: list[list[int]], limit: int) -> list[tuple[list[int], list[int]]]:
        short = self.kind in ("LFDefaultTemplate", "ReasoningTemplate")
        limit -= 1 if short else 0
        found, total = [], 0
        for place in range(0, len(encoded), 2):
            if total >= limit:
                break
            s, t = len(encoded[place]), len(encoded[place + 1])
            if short:
                a, b = infer(s, t, limit - total)
            else:
                b = max(int((limit - total) * (t / (s + t))) if s + t else 0, 1)
                a = limit - total - min(b, t)
            found.append((encoded[place][:a], encoded[place + 1][:b]))
            total += len(found[-1][0]) + len(found[-1][1])
        return found

    def encoded(self, messages: Any, system: str, tools: str) -> list[list[int]]:  # noqa: C901
        system = system or self.t.get("default_system", "")
        end = [] if self.efficient else [["eos_token"]]
        found = []
        for place, (role, text) in enumerate(messages):
            slots: list[Any] = []
            above = ""
            if place == 0:
                slots += self.slots("prefix", [])
                if system or tools:
                    body = [
                        slot.replace("{{content}}", system + self.tool_text(tools), 1)
                        if isinstance(slot, str)
                        else slot
                        for slot in self.slots("system", ["{{content}}"])
                    ]
                    if self.kind == "Llama2Template":
                        above = body[0]
                    else:
                        slots += body
            elif place % 2 == 0 and self.kind != "LFDefaultTemplate":
                slots += self.slots("separator", [])
            users = self.slots("user", ["{{content}}"])
            values = {"content": text}
            if role == "user":
                form, values = users, {"content": above + text}
                if self.kind != "Llama2Template":
                    values["idx"] = str(place // 2)
            elif role == "assistant":
                form = self.slots("assistant", ["{{content}}", *end])
            elif role == "observation":
                form = self.slots("observation", users)
            elif role == "function":
                form, values = self.call(text, end), {}
            else:
                raise CrashError(role)
            for slot in form:
                if isinstance(slot, str):
                    for name, value in values.items():
                        slot = slot.replace("{{" + name + "}}", value, 1)
                slots.append(slot)
            found.append([number for slot in slots for number in self.slot_ids(slot)])
        return found

    def slots(self, part: str, default: list[Any]) -> list[Any]:
        return (self.t.get(f"format_{part}") or {}).get("slots", default)

    def slot_ids(self, slot: Any) -> list[int]:
        if isinstance(slot, dict):
            return [self.id(slot["token"])]
        if isinstance(slot, list):
            token = self.bos if "bos_token" in slot else self.eos
            return [self.id(token)] if token else []
        return self.ids(slot) if slot else []

    def call(self, text: str, end: list[Any]) -> list[Any]:
        name = self.t["name"]
        if name == "qwen3":
            raise CrashError("tool_utils")
        if name == "bailing_mini":
            call = json.loads(text)
            body = json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
            return [
                slot.replace("{{content}}", f"<tool_call>\n{body}\n</tool_call>") for slot in self.slots("function", [])
            ]
        try:
            call = json.loads(text)
            tool, arguments = call["name"], json.dumps(call["arguments"], ensure_ascii=False)
        except Exception:
            tool, arguments = "", ""
        return [
            slot.replace("{{name}}", tool).replace("{{arguments}}", arguments) if isinstance(slot, str) else slot
            for slot in self.slots("function", ["Action: {{name}}\nAction Input: {{arguments}}", *end])
        ]

    def tool_text(self, tools: str) -> str:
        if not tools:
            return ""
        if self.t["name"] in ("qwen3", "bailing_mini"):
            raise CrashError("tools")
        if "format_tools" in self.t:
            return ""
        try:
            text, names = "", []
            for tool in json.loads(tools):
                arguments = ""
                for name, value in tool["parameters"]["properties"].items():
                    arguments += f"  - {name} ({value.get('type', '')}"
                    arguments += ", required" if name in tool["parameters"].get("required", []) else ""
                    arguments += f"): {value.get('description', '')}"
                    if value.get("enum"):
                        arguments += f", should be one of [{', '.join(value['enum'])}]"
                    if value.get("items"):
                        arguments += f", where each item should be {value['items'].get('type', '')}"
                    arguments += "\n"
                text += f"> Tool Name: {tool['name']}\nTool Description: {tool.get('description', '')}\n"
                text += f"Tool Args:\n{arguments}\n"
                names.append(tool["name"])
        except Exception:
            return ""
        if not names:
            return ""
        return (
            "You have access to the following tools:\n" + text + "Use the following format if using a tool:\n```\n"
            "Action: tool name (one of [" + ", ".join(names) + "]).\nAction Input: the input to the tool, in a JSON "
            'format representing the kwargs (e.g. ```{"input": "hello world", "num_beams": 5}```).\n```\n'
        )

    # without a template

    def documents(self, row: Any) -> Item:
        if self.flags.handler == "AlpacaPretrainHandler":
            inputs = f" Input:\n{row['input']}" if row.get("input") else "None"
            text = (
                "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
                "detailed, and polite answers to the user's questions.USER: Below is an instruction that describes a "
                "task. Write a response that appropriately completes the request.\n\n### Instruction:\n"
                f"{row.get('instruction')}\n\n###{inputs}\n\n### Response: ASSISTANT: {row.get('output')}"
            )
            return {"text": self.document(text, 1)}
        if self.flags.handler == "SharegptPretrainHandler":
            joined = {
                k: "".join(turn.get("value") or turn.get("content") for turn in row[k]) for k in self.flags.json_keys
            }
            return {key: self.document(text, self.flags.pad_to_multiple_of) for key, text in joined.items()}
        return {key: self.document(row[key], self.flags.pad_to_multiple_of) for key in self.flags.json_keys}

    def document(self, text: str, multiple: int) -> list[list[int]]:
        if not text:
            return []
        ids = self.ids(text, special=True)
        if multiple > 1:
            number = (len(ids) // multiple + 1) * multiple - len(ids) - (1 if self.flags.append_eod else 0)
            ids += [self.tok.get_vocab_size(with_added_tokens=True)] * number
        return [ids + ([self.id(self.eos)] if self.flags.append_eod else [])]

    def prompter(self, row: Any) -> Item:
        if self.flags.handler.startswith("Belle"):
            messages: list[tuple[str, str]] = []
            for part in row["instruction"].split("Human:"):
                if part:
                    said = part.split("Assistant:")
                    messages += [("user", said[0].strip())] if len(said) > 1 else []
                    messages.append(("assistant", (said[1] if len(said) > 1 else said[0]).strip()))
            messages[-1] = ("assistant", row["output"].strip())
        else:
            messages = [("user", row["instruction"] + "\n" + row["input"]), ("assistant", row["output"])]
        full = (
            "\nBelow is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request. Please note that you need to think through "
            "your response logically and step by step.\n"
        )
        for role, text in messages:
            full += ("### Instruction:" if role == "user" else "### Response:") + "\n" + text + "\n"
        ids = self.ids(full, special=True) + ([self.id(self.eos)] if self.flags.append_eod else [])
        head = len(self.ids(full[: full.rindex("### Response:")] + "### Response:\n", special=True))
        return {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "labels": [[IGNORE] * head + ids[head:]]}

    # files

    def files(self, rows: list[dict[str, Any]]) -> dict[str, bytes]:
        """``input_ids.bin`` and so on, of the columns."""
        items = self.items(rows)
        gap = len(items) // self.flags.n_subs
        if not gap:
            raise CrashError("zero")
        parts = [items[first : first + gap] for first in range(0, len(items), gap)]
        sets = [self.packed(part) if self.flags.pack else self.plain(part) for part in parts]
        return {
            f"{column}.{kind}": data
            for column in sets[0]
            for kind, data in zip(("bin", "idx"), written([part[column] for part in sets]), strict=True)
        }

    def plain(self, items: list[Item]) -> dict[str, list[list[list[int]]]]:
        """Documents of each column; a document is a list of sequences."""
        found: dict[str, list[list[list[int]]]] = {column: [] for column in items[0]}
        for first in range(0, len(items), 50):
            batch = {column: [item[column] for item in items[first : first + 50] if item[column]] for column in found}
            skipped = {
                (j, k)
                for rows in batch.values()
                for j, sequences in enumerate(rows)
                for k, sequence in enumerate(sequences)
                if self.flags.seq_length is not None and len(sequence) >= self.flags.seq_length
            }
            for column, rows in batch.items():
                for j, sequences in enumerate(rows):
                    found[column].append([s for k, s in enumerate(sequences) if (j, k) not in skipped])
        return found

    def packed(self, items: list[Item]) -> dict[str, list[list[list[int]]]]:  # noqa: C901
        size = self.flags.seq_length
        assert size is not None
        if {"input_ids", "attention_mask", "labels"} != set(items[0]):
            raise CrashError("columns")
        kept, by_length = [], {}
        for item in items:
            row = {column: value[0] for column, value in item.items()}
            if len(row["input_ids"]) >= size and not self.flags.neat_pack:
                continue
            row = {column: value[: size - 1] for column, value in row.items()}
            by_length.setdefault(len(row["input_ids"]), []).append(len(kept))
            kept.append(row)
        numbers = sorted(len(row["input_ids"]) for row in kept)
        found: dict[str, list[list[list[int]]]] = {column: [] for column in items[0]}
        while numbers:
            room, sack = size - 1, []
            while (place := bisect(numbers, room) - 1) >= 0:
                sack.append(numbers.pop(place))
                room -= sack[-1]
            if not sack:
                raise CrashError("endless")
            out: dict[str, list[int]] = {column: [] for column in found}
            for number, length in enumerate(sack, 1):
                row = kept[by_length[length].pop()]
                for column, value in row.items():
                    out[column] += (
                        [number] * len(value) if self.flags.neat_pack and column == "attention_mask" else value
                    )
            empty = size - len(out["input_ids"])
            if self.pad is None:
                raise CrashError("pad")
            out["input_ids"] += [self.id(self.pad)] * empty
            out["attention_mask"] += [0 if self.flags.neat_pack else 1] * empty
            out["labels"] += [IGNORE] * empty
            for column, value in out.items():
                found[column].append([value])
        return found


def infer(s: int, t: int, limit: int) -> tuple[int, int]:
    if t * 2 < limit:
        most = limit
    elif s * 2 < limit:
        most = limit - s
    else:
        most = int(limit * (t / (s + t)))
    target = min(most, t)
    return min(max(limit - target, 0), s), target


def written(parts: list[list[list[list[int]]]]) -> tuple[bytes, bytes]:
    """``.bin`` and ``.idx`` of documents."""
    documents = [document for part in parts for document in part]
    sequences = [sequence for document in documents for sequence in document]
    ends = [0]
    for document in documents:
        ends.append(ends[-1] + len(document))
    offsets = [0]
    for sequence in sequences:
        offsets.append(offsets[-1] + 4 * len(sequence))
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, len(sequences), len(ends))
    index += array("i", map(len, sequences)).tobytes() + array("q", offsets[:-1]).tobytes() + array("q", ends).tobytes()
    return array("i", [number for sequence in sequences for number in sequence]).tobytes(), index
