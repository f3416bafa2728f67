"""Every template there is: text, ids and labels as MindSpeed-LLM makes them, and what holds for any data."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from seqpack.core.types import IGNORE_INDEX, Message, Sample, TokenizedSample
from seqpack.hooks.host import PluginHost
from seqpack.options.data import TextOptions
from seqpack.text.catalog import OpenedTemplate, open_template
from seqpack.text.encoder import SampleEncoder, encode
from seqpack.text.labels import LabelCheck
from seqpack.text.plain import ControlText
from seqpack.text.template import CONTENT, TextTemplate
from seqpack.text.tokenizer import Tokenizer

from .mindspeed_rules import Rules

GOLDEN = Path(__file__).parents[1] / "golden" / "templates"
ENTRIES = {entry["name"]: entry for entry in json.loads((GOLDEN / "mindspeed_templates.json").read_bytes())}
EXPECTED = GOLDEN / "expected.json"
NAMES = sorted(template.name for template in PluginHost([]).templates)
NO_END = {"empty", "trl", "hunyuan"}
DEFAULT_TOOLS = sorted(name for name in ENTRIES if "format_tools" not in ENTRIES[name] and name != "deepseek4")
TOKENS = (
    *("<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "[gMASK]", "sop"),
    *(
        "<sop>",
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<用户>",
        "<AI>",
    ),
    *("<start_of_turn>", "<end_of_turn>", "<reserved_106>", "<reserved_107>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<role>", "</role>", "<|role_end|>", "<|start|>", "<|end|>"),
    *("<|message|>", "<|channel|>", "<tool_call>", "</tool_call>"),
)

TOOLS = json.dumps(
    [
        {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "which"}},
                "required": ["city"],
            },
        }
    ]
)
TURNS = [("user", "Hi"), ("assistant", "Hello!\nHow are you?"), ("user", "Add 1 and 1."), ("assistant", "It is 2.")]
CALL = json.dumps({"name": "weather", "arguments": {"city": "Zürich"}}, ensure_ascii=False)
CASES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "single": (TURNS[:2], "", ""),
    "multi": ([*TURNS, ("user", "Bye"), ("assistant", "Bye!")], "", ""),
    "system": (TURNS, "Be kind.", ""),
    "thought": ([("user", "Why?"), ("assistant", "<think>\nHm.\n</think>\n\nSo."), *TURNS[2:]], "", ""),
    "tools": ([("user", "Rain?"), ("function", CALL), ("observation", "yes"), ("assistant", "Yes.")], "Short.", TOOLS),
}


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir, tmp_path_factory) -> Tokenizer:
    return tokenizer_of(tokenizer_dir, tmp_path_factory.mktemp("every-token"))


def tokenizer_of(tokenizer_dir: Path, folder: Path) -> Tokenizer:
    """The small tokenizer, with the tokens of all templates."""
    fast = FastTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TOKENS])
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}', encoding="utf-8")
    return Tokenizer(folder)


def opened(tokenizer: Tokenizer, name: str, **options: object) -> OpenedTemplate:
    return open_template(TextOptions(tokenizer=tokenizer.directory, prompt_type=name, **options), tokenizer)


def sample(turns: list[tuple[str, str]], system: str = "", tools: str = "") -> Sample:
    messages = [Message(role, text) for role, text in ([("system", system)] if system else []) + turns]
    return Sample(tuple(messages), tools=tools)


def tokens_of(tokenizer: Tokenizer, name: str, rows: Sample, **options: object) -> TokenizedSample:
    control = ControlText(tokenizer)
    return encode(tokenizer, [control.guard(opened(tokenizer, name, **options).template.spans(rows))], control)[0]


def digest(ids: list[int], labels: list[int]) -> str:
    return hashlib.sha256(json.dumps([ids, labels]).encode()).hexdigest()[:16]


def rules(tokenizer: Tokenizer, name: str, thinking: bool | None = None) -> Rules:
    fast = FastTokenizer.from_file(str(tokenizer.directory / "tokenizer.json"))
    return Rules(ENTRIES[name], fast, "<s>", "</s>", thinking)


def cases(name: str) -> list[str]:
    return [case for case in CASES if case != "tools" or name in DEFAULT_TOOLS]


def test_every_template_of_theirs_is_ours():
    assert sorted(ENTRIES) == NAMES and len(NAMES) == 34


@pytest.mark.parametrize("name", NAMES)
def test_text_ids_and_labels(tokenizer, name):
    """Once against the rules, once against the file: a mistake in either is seen."""
    golden = json.loads(EXPECTED.read_bytes())
    for case in cases(name):
        turns, system, tools = CASES[case]
        by_rules = rules(tokenizer, name)
        pairs = by_rules.render(turns, system, tools)
        ids, labels = by_rules.encode(pairs)
        tokens = tokens_of(tokenizer, name, sample(turns, system, tools))
        assert tokenizer.decode(tokens.input_ids.tolist()) == tokenizer.decode(ids), case
        assert tokens.input_ids.tolist() == ids, case
        assert tokens.labels.tolist() == labels, case
        assert golden[name][case] == {
            "turns": [["".join(source), "".join(target)] for source, target in pairs],
            "tokens": len(ids),
            "trained": len(ids) - labels.count(IGNORE_INDEX),
            "sha256": digest(ids, labels),
        }


@pytest.mark.parametrize("thinking", ["true", "false", "none"])
@pytest.mark.parametrize("name", ["qwen3", "glm4_moe", "magistral", "gpt_oss", "deepseek4"])
def test_thoughts(tokenizer, name, thinking):
    opening, closing = ENTRIES[name].get("thought_words") or ("<think>\n", "\n</think>\n\n")
    turns = [("user", "Why?"), ("assistant", f"{opening}Hm.{closing}So."), *TURNS[:2]]
    for rows in (turns, turns[:2], turns[2:], turns[2:] + turns[:2]):
        by_rules = rules(tokenizer, name, {"true": True, "false": False, "none": None}[thinking])
        ids, labels = by_rules.encode(by_rules.render(rows))
        tokens = tokens_of(tokenizer, name, sample(rows), enable_thinking=thinking)
        assert tokenizer.decode(tokens.input_ids.tolist()) == tokenizer.decode(ids)
        assert (tokens.input_ids.tolist(), tokens.labels.tolist()) == (ids, labels)


def trained_runs(tokens: TokenizedSample) -> list[list[int]]:
    runs = groupby(tokens.labels.tolist(), key=lambda label: label != IGNORE_INDEX)
    return [list(run) for is_trained, run in runs if is_trained]


@pytest.mark.parametrize("name", NAMES)
def test_every_reply_ends_with_a_trained_end_token(tokenizer, name):
    found = opened(tokenizer, name)
    runs = trained_runs(tokens_of(tokenizer, name, sample(CASES["multi"][0])))
    assert len(runs) == 3
    if name not in NO_END:
        assert all(found.eos_token_id in run[-2:] for run in runs), "a newline may follow"
    template = found.template
    assert isinstance(template, TextTemplate)
    if template.efficient_eos:
        tokens = tokens_of(tokenizer, name, sample(CASES["multi"][0]))
        moved = [i for i, label in zip(tokens.input_ids, tokens.labels, strict=True) if label not in (i, IGNORE_INDEX)]
        assert len(moved) == 2 and tokens.input_ids[-1] == tokens.labels[-1] == found.eos_token_id


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["single", "system", "tools"])
def test_so_does_every_call_of_a_tool(tokenizer, name, case):
    """The number of replies, each with an end token that is trained on; nothing else is."""
    found = opened(tokenizer, name)
    turns, system, tools = CASES[case]
    tokens = tokens_of(tokenizer, name, sample(turns, system, tools))
    runs = trained_runs(tokens)
    said = [text for role, text in turns if role == "assistant"]
    assert len(runs) == sum(role in ("assistant", "function") for role, _ in turns)
    assert tokenizer.decode(runs[-1]).strip().startswith(said[-1])
    if case == "tools":
        assert "weather" in tokenizer.decode(runs[0]) and "Zürich" in tokenizer.decode(runs[0])
    if name not in NO_END:
        # templates that leave the form of a call open end it with the tokenizer's own token, plm with this one
        ends = {found.eos_token_id, tokenizer.eos_token_id, tokenizer.token_id("<|endoftext|>")}
        assert all(ends & set(run[-2:]) for run in runs)


@pytest.mark.parametrize("name", NAMES)
def test_the_check_of_labels_agrees(tokenizer, name):
    found = opened(tokenizer, name)
    check = LabelCheck(found.template, tokenizer, ControlText(tokenizer), SampleEncoder(tokenizer), found.eos_token_id)
    findings = check.findings([sample(turns, system, tools) for turns, system, tools in CASES.values()])
    assert [finding.code for finding in findings] == (["SP121"] if name in NO_END else [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["multi", "system", "tools"])
def test_a_conversation_begins_as_its_first_turns_do(tokenizer, name, case):
    turns, system, tools = CASES[case]
    whole = tokens_of(tokenizer, name, sample(turns, system, tools)).input_ids.tolist()
    for length in range(2, len(turns), 2):
        part = tokens_of(tokenizer, name, sample(turns[:length], system, tools)).input_ids.tolist()
        template = opened(tokenizer, name).template
        assert isinstance(template, TextTemplate)
        assert whole[: len(part) - template.efficient_eos] == part[: len(part) - template.efficient_eos]


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.sampled_from([*TOKENS, "{{content}}", "{{idx}}", " ", "a", "<|", "[INST]"]), max_size=5).map("".join),
)


@given(name=st.sampled_from(NAMES), turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), system=TEXTS)
def test_whatever_the_data_say(tokenizer, name, turns, system):
    """What is trained on is the replies, and no text of the data becomes a control token."""
    template = opened(tokenizer, name).template
    assert isinstance(template, TextTemplate)
    rows = [turn for user, reply in turns for turn in (("user", "q" + user), ("assistant", reply))]
    harmless = [turn for _ in turns for turn in (("user", "q"), ("assistant", "a"))]
    tokens = tokens_of(tokenizer, name, sample(rows, system))
    ending = template.end_of_turn if template.efficient_eos else ""
    replies = ["".join(template.assistant).replace(CONTENT, reply) + ending for _, reply in turns]
    assert [tokenizer.decode(run) for run in trained_runs(tokens)] == [reply for reply in replies if reply]
    added = set(tokenizer.added_tokens.values())

    def control(tokens: TokenizedSample) -> list[int]:
        return [token for token in tokens.input_ids.tolist() if token in added]

    assert control(tokens) == control(tokens_of(tokenizer, name, sample(harmless, "a" if system else "")))


def test_the_expected_file_is_what_the_rules_give(tokenizer):
    """With WRITE_GOLDEN=1 it is written."""
    value: dict[str, dict[str, object]] = {}
    for name in NAMES:
        value[name] = {}
        for case in cases(name):
            by_rules = rules(tokenizer, name)
            pairs = by_rules.render(*CASES[case])
            ids, labels = by_rules.encode(pairs)
            value[name][case] = {
                "turns": [["".join(source), "".join(target)] for source, target in pairs],
                "tokens": len(ids),
                "trained": len(ids) - labels.count(IGNORE_INDEX),
                "sha256": digest(ids, labels),
            }
    if "WRITE_GOLDEN" in os.environ:
        EXPECTED.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert json.loads(EXPECTED.read_bytes()) == value
