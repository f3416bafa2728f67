"""``--compat mindspeed`` against a second, slow implementation of MindSpeed-LLM's rules: the bytes of every file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.progress import say_nothing
from seqpack.options.data import InputOptions
from seqpack.pipeline.inputs import resolve_input
from seqpack.pipeline.mindspeed_input import mindspeed_input

from .mindspeed_reference import CrashError, Flags, Program

GOLDEN = Path(__file__).parents[1] / "golden"
TEMPLATES = GOLDEN / "templates" / "mindspeed_templates.json"
TOKENIZERS = ("llama2", "llama3", "qwen")
NAMES = [entry["name"] for entry in json.loads(TEMPLATES.read_bytes()) if entry["name"] != "deepseek4"]
REASONING = ("qwen3", "glm4_moe", "magistral", "gpt_oss")

ALPACA, SHAREGPT = "AlpacaStyleInstructionHandler", "SharegptStyleInstructionHandler"
PAIRS = {"sharegpt": "SharegptStylePairwiseHandler", "alpaca": "AlpacaStylePairwiseHandler"}
WORDS = ["Describe", "a", "process", "of", "making", "crepes,", "then", "list", "what", "is", "used.", "\n"]


def words(number: int, seed: int = 0) -> str:
    return " ".join(WORDS[(seed + place * (seed + 1)) % len(WORDS)] for place in range(number))


def tool(name: str, **more: Any) -> dict[str, Any]:
    place = {"type": "string", "description": "where", "enum": ["here", "there"]}
    items = {"type": "array", "items": {"type": "string"}}
    schema = {"type": "object", "properties": {"place": place, "words": items}, "required": ["place"]}
    return {"name": name, "description": "Looks", "parameters": schema, **more}


CALL = json.dumps({"name": "look", "arguments": {"place": "Zürich"}}, ensure_ascii=False)
WRAPPED = json.dumps([{"type": "function", "function": tool("look")}])
WRONG_ENUM = json.dumps([tool("look", parameters={"properties": {"n": {"enum": [1, 2]}}})])
TURNS = (("human", "Hi {{idx}} there"), ("gpt", "Hello {{content}}"), ("human", "<|im_end|>Look."), ("gpt", "So."))
USING = (("human", "Rain?"), ("function_call", CALL), ("observation", "{{idx}} yes"), ("gpt", "Yes."))


def chat(turns: Any, **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def exchange(number: int) -> dict[str, Any]:
    think = "<think>\nHm.\n</think>\n\n" if number % 3 == 0 else "<think>no blanks</think>" if number % 5 == 0 else ""
    history = [[words(number, 1), think + words(3)], ["And {{idx}}?", "Now."]] if number % 2 else []
    return {
        "instruction": words(4 + number * 3, number),
        "input": words(number % 4) if number % 4 else "",
        "output": think + words(2 + (number * 7) % 60, number + 1),
        "system": "Be kind." if number % 3 == 1 else "",
        "history": history,
        "level": f"level {number}",
    }


ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        *(exchange(number) for number in range(24)),
        {"instruction": "Two answers.", "output": ["one", "two"], "level": "x"},
        {"instruction": "One in a list.", "output": ["one"], "level": "y"},
        {"instruction": "", "input": None, "output": "", "level": "z"},
        {"instruction": "No answer.", "output": None, "level": "w"},
    ],
    "plain": [{key: row[key] for key in ("instruction", "input", "output")} for row in map(exchange, range(64))],
    "sharegpt": [
        *(chat([("human", words(number)), ("gpt", words(30 + number))]) for number in range(1, 12)),
        chat(TURNS, tools=json.dumps([tool("look"), tool("see")])),
        chat((("system", "Be kind."), *TURNS), sys="not read", tools="[]"),
        chat(USING, sys="Short.", tools=json.dumps([tool("look")])),
        chat(USING, tools=WRAPPED),
        chat(USING, tools="not JSON", sys=""),
        chat(USING, tools=WRONG_ENUM),
        chat((("human", "Call."), ("function_call", "not JSON"))),
        chat((("human", "Call."), ("function_call", '{"name": "{{arguments}}", "arguments": 3}'))),
        chat(TURNS[:3]),
        chat(TURNS[1:3]),
        chat((("human", "a"), ("nobody", "b"))),
        chat((("system", "alone"),)),
        chat((("human", None), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e"), ("gpt", None))),
        chat((("human", ""), ("gpt", ""))),
    ],
    "openai": [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "tools": ""},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]},
                {"role": "tool", "content": "seen"},
                {"role": "assistant", "content": "So."},
            ],
            "tools": [tool("look")],
        },
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "user", "content": "b"},
                {"role": "assistant", "content": "c"},
            ],
            "tools": "[]",
        },
        {"messages": [{"role": "user", "content": "Hi"}], "tools": ""},
        {"messages": [{"role": "critic", "content": "Hi"}, {"role": "assistant", "content": "b"}], "tools": ""},
    ],
    "sharegpt pairs": [
        *(
            chat(
                [*(TURNS[:2] if number % 2 else ()), ("human", words(number))],
                chosen={"from": "gpt", "value": ("<think>\na\n</think>\n\n" if number % 3 else "") + words(number, 1)},
                rejected={"from": "gpt", "value": words(5, number)},
            )
            for number in range(1, 12)
        ),
        chat(TURNS, chosen={"from": "gpt", "value": "a"}, rejected={"from": "gpt", "value": "b"}),
        chat(TURNS[:1], chosen={"from": "human", "value": "a"}, rejected={"from": "gpt", "value": "b"}),
    ],
    "alpaca pairs": [
        *({"question": words(n), "chosen": words(n, 2), "rejected": words(3, n), "sys": ""} for n in range(1, 9)),
        {"question": "q", "chosen": ["a"], "rejected": ["b", "c"], "sys": "Be kind."},
        {"question": "q", "chosen": None, "rejected": None, "sys": None},
    ],
    "text": [{"a": words(n % 9 * 5, n), "b": words(n % 7 * 4) if n % 3 else ""} for n in range(1, 120)],
    "belle": [{"instruction": "Human:Hi\nAssistant:Hello\nHuman: And now?\nAssistant:", "output": " Now this.\n"}],
}
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, cut": {"seq_length": 64},
    "pack": {"seq_length": 96, "pack": True},
    "neat": {"seq_length": 64, "pack": True, "neat_pack": True},
    "neat, eod": {"seq_length": 77, "pack": True, "neat_pack": True, "append_eod": True},
    "eod": {"append_eod": True},
    "subsets": {"seq_length": 128, "pack": True, "n_subs": 4},
}
OPTIONS = ("seq_length", "pack", "neat_pack", "append_eod", "enable_thinking")


@pytest.fixture
def tokenizers(tmp_path) -> Path:
    """The folder of the three tokenizers; that of Llama 2 adds nothing, and names no token for padding."""
    folder = tmp_path / "tokenizers"
    shutil.copytree(GOLDEN / "mindspeed" / "tokenizers", folder)
    shutil.copytree(folder / "qwen", folder / "llama2")
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "llama2" / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def compare(runs, write_jsonl, tokenizers) -> Callable[..., int]:
    """Files of both, byte for byte, or both stop. Returns how many files were compared.

    Where one row makes their program stop, the rows that it takes are compared too.
    """

    def compare(rows: str, handler: str, tokenizer: str, **given: Any) -> int:
        flags = Flags(handler, **given)
        directory = tokenizers / tokenizer
        expected = theirs(flags, ROWS[rows], directory)
        if expected:
            return compare_files(expected, flags, ROWS[rows], directory)
        with pytest.raises((ConfigError, DataError)):
            ours(flags, ROWS[rows], directory)
        columns = dict.fromkeys(name for row in ROWS[rows] for name in row)
        alone = dataclasses.replace(flags, pack=False, n_subs=1)
        taken = [columns | row for row in ROWS[rows] if theirs(alone, [columns | row], directory)]
        expected = theirs(flags, taken, directory)
        return compare_files(expected, flags, taken, directory) if expected else 0

    def compare_files(expected: dict[str, bytes], flags: Flags, rows: list[dict[str, Any]], directory: Path) -> int:
        paths = ours(flags, rows, directory)
        for name, content in expected.items():
            column, kind = name.rsplit(".", 1)
            found = paths.column(column).with_name(f"{paths.column(column).name}.{kind}")
            assert found.read_bytes() == content, f"{name} of {flags}"
        return len(expected)

    def theirs(flags: Flags, rows: list[dict[str, Any]], directory: Path) -> dict[str, bytes]:
        """Their files; none if they stop, or write files of nothing."""
        try:
            files = Program(flags, directory, TEMPLATES).files(rows)
        except (CrashError, KeyError, IndexError, TypeError, ValueError):
            return {}
        return files if any(content for name, content in files.items() if name.endswith(".bin")) else {}

    def ours(flags: Flags, rows: list[dict[str, Any]], directory: Path) -> Any:
        more = {name: getattr(flags, name) for name in OPTIONS}
        if flags.prompt_type:
            more["prompt_type"] = flags.prompt_type
        if "Pretrain" in flags.handler and "Alpaca" not in flags.handler:
            more["json_keys"] = list(flags.json_keys)
        file = write_jsonl(rows, "rows.jsonl")
        return runs.preprocess(
            file,
            tokenizer=directory,
            handler=flags.handler,
            map_keys=json.dumps(flags.map_keys) if flags.map_keys else None,
            compat="mindspeed",
            n_subs=flags.n_subs,
            pad_to_multiple_of=flags.pad_to_multiple_of,
            dataset_additional_keys=list(flags.additional_keys),
            overwrite=True,
            **more,
        ).paths

    return compare


ALPACA_KEYS = {"system": "system", "history": "history"}


THOROUGH = ("chatglm3", "qwen", "qwen_lf", "llama2", "llama3", "qwen3", "glm4", "gemma", "gpt_oss", "alpaca")
"""Templates of every class and kind of end."""
TAKEN = [
    (name, mode)
    for place, name in enumerate(NAMES)
    for number, mode in enumerate(MODES)
    if name in THOROUGH or (place + number) % 3 == 0
]


NEED_TOKENS = ("chatglm2", "chatglm3", "chatglm3_system")
"""Templates with tokens that not all of the tokenizers have: their program stops, whatever the data are."""
LONG = ("alpaca", "bailing_mini", "gpt_oss", "magistral", "qwen_r1")
"""Templates whose own text leaves no room in some of the short sequences: their files are empty."""


def may_be_nothing(name: str, mode: Mapping[str, Any]) -> bool:
    return name in NEED_TOKENS or (name in LONG and "seq_length" in mode)


@pytest.mark.parametrize(("name", "mode"), TAKEN)
def test_templates_and_modes(compare, name, mode):
    tokenizer = TOKENIZERS[(NAMES.index(name) + list(MODES).index(mode)) % len(TOKENIZERS)]
    alpaca = compare("alpaca", ALPACA, tokenizer, prompt_type=name, map_keys=ALPACA_KEYS, **MODES[mode])
    sharegpt = compare("sharegpt", SHAREGPT, tokenizer, prompt_type=name, **MODES[mode])
    assert (alpaca and sharegpt) or may_be_nothing(name, MODES[mode])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_tools(compare, name, tokenizer):
    mapped = {"tools": "tools", "system": "sys"}
    assert compare("sharegpt", SHAREGPT, tokenizer, prompt_type=name, map_keys=mapped) or name in NEED_TOKENS


@pytest.mark.parametrize("thinking", ["true", "false", "none"])
@pytest.mark.parametrize("name", REASONING)
def test_thoughts(compare, name, thinking):
    for mode in ("plain", "plain, cut", "neat"):
        given = {"prompt_type": name, "enable_thinking": thinking, **MODES[mode]}
        assert compare("alpaca", ALPACA, "qwen", map_keys=ALPACA_KEYS, **given) or may_be_nothing(name, MODES[mode])
        if mode != "neat":
            pairs = compare("sharegpt pairs", PAIRS["sharegpt"], "qwen", **given)
            assert pairs or may_be_nothing(name, MODES[mode])
            assert compare("alpaca", "R1AlpacaStyleInstructionHandler", "qwen", map_keys=ALPACA_KEYS, **given)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_and_prompts(compare, name):
    tokenizer = TOKENIZERS[NAMES.index(name) % len(TOKENIZERS)]
    mapped = {"prompt": "question", "query": "", "system": "sys"}
    for mode in ("plain", "plain, cut"):
        given = {"prompt_type": name, **MODES[mode]}
        keys = ("labels", "level")
        compared = (
            compare("sharegpt pairs", PAIRS["sharegpt"], tokenizer, **given),
            compare("alpaca pairs", PAIRS["alpaca"], tokenizer, map_keys=mapped, **given),
            compare("alpaca", "PPOAlpacaStyleInstructionHandler", tokenizer, map_keys=ALPACA_KEYS, **given),
            compare("alpaca", "R1AlpacaStyleInstructionHandler", tokenizer, additional_keys=keys, **given),
            compare("sharegpt", "R1SharegptStyleInstructionHandler", tokenizer, additional_keys=("labels",), **given),
        )
        assert all(compared) or may_be_nothing(name, MODES[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["qwen", "llama2", "gemma", "qwen_lf"])
def test_messages_of_openai(compare, name, mode):
    mode_flags = MODES[mode] | ({"n_subs": 2} if mode == "subsets" else {})
    assert compare("openai", "OpenAIInstructionHandler", "llama2", prompt_type=name, **mode_flags)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("mode", [*MODES, "fillers", "fillers, eod", "short", "short subsets"])
def test_text(compare, tokenizer, mode):
    more = {
        "fillers": {"pad_to_multiple_of": 16},
        "fillers, eod": {"pad_to_multiple_of": 8, "append_eod": True},
        "short": {"seq_length": 20},
        "short subsets": {"seq_length": 20, "n_subs": 3},
    }
    given = MODES.get(mode) or more.get(mode, {})
    text = compare("text", "GeneralPretrainHandler", tokenizer, json_keys=("a", "b"), **given)
    plain = compare("plain", "AlpacaPretrainHandler", tokenizer, **given)
    prompted = compare("plain", "GeneralInstructionHandler", tokenizer, **given)
    assert text or "pack" in given  # which their program cannot do with text
    assert (plain and prompted) or "seq_length" in given  # all rows are longer


def test_other_tags_and_what_they_do_not_name(compare):
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    assert compare("sharegpt", SHAREGPT, "qwen", prompt_type="qwen", map_keys={"tags": tags})


@pytest.mark.parametrize("name", ["qwen", "glm4", "chatglm3", "llama2", "qwen3", "cpm"])
def test_their_own_file_of_templates_gives_the_same(runs, write_jsonl, tokenizers, name):
    file = write_jsonl(ROWS["alpaca"])
    options = {"prompt_type": name, "compat": "mindspeed", "tokenizer": tokenizers / "llama2"}
    if name == "chatglm3":
        with pytest.raises(ConfigError, match="needs the token"):
            runs.preprocess(file, **options | {"tokenizer": tokenizers / "qwen"})
    ours = runs.preprocess(file, "ours", **options).paths
    theirs = runs.preprocess(file, "theirs", prompt_type_path=TEMPLATES, **options).paths
    for column in ("input_ids", "labels"):
        files = [paths.column(column).with_name(f"{paths.column(column).name}.bin") for paths in (ours, theirs)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_data_sets_by_name_read_only_what_their_entry_names(runs, write_jsonl, tmp_path):
    write_jsonl([{"q": "Hi", "a": "Hello", "input": "not read"}] * 2, "a.jsonl")
    write_jsonl([chat(TURNS)], "b.jsonl")
    info = {
        "one": {"file_name": "a.jsonl", "columns": {"prompt": "q", "response": "a"}},
        "two": {"file_name": "b.jsonl", "formatting": "sharegpt"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    result = runs.preprocess(Path("one,two"), handler="llamafactory", dataset_dir=tmp_path, compat="mindspeed")
    assert result.ledger.kept.samples == 3
    flags = Flags(ALPACA, "qwen", {"prompt": "q", "response": "a", "query": None})
    expected = Program(flags, runs.tokenizer, TEMPLATES)
    first = expected.items([{"q": "Hi", "a": "Hello"}])[0]["input_ids"][0]
    assert next(iter(runs.open("out"))).input_ids.tolist() == first


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"train_on": "last"}, "trains on every reply"),
        ({"prompt_type": "chat-template"}, "not one of MindSpeed-LLM's"),
        ({"n_subs": 99, "pack": True, "seq_length": 64}, "only 27 rows"),
        ({"n_subs": 99}, "only 27 rows"),
        ({"strategy": "greedy", "pack": True, "seq_length": 64}, "own rules"),
    ],
)
def test_what_it_has_no_rule_for_is_an_error(runs, write_jsonl, options, match):
    with pytest.raises(ConfigError, match=match):
        runs.preprocess(write_jsonl(ROWS["alpaca"]), compat="mindspeed", **options)
    assert runs.files() == {}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([chat([])], {"handler": SHAREGPT}),
        ([{"instruction": 3, "input": "", "output": "a"}], {"handler": ALPACA}),
        ([chat(USING, tools=json.dumps([tool("look")]))], {"handler": SHAREGPT, "map_keys": '{"tools": "tools"}'}),
        ([chat(USING)], {"handler": SHAREGPT}),
        ([{"text": None}], {"handler": "text"}),
    ],
    ids=["empty conversation", "a number", "tools", "a call", "no text"],
)
def test_a_row_at_which_they_stop_is_named(runs, write_jsonl, rows, options):
    prompt_type = {} if options["handler"] == "text" else {"prompt_type": "qwen3"}
    with pytest.raises(DataError, match=r"\.jsonl:1: .* MindSpeed-LLM stops there") as caught:
        runs.preprocess(write_jsonl(rows), compat="mindspeed", **options, **prompt_type)
    assert caught.value.code == "SP136"


def test_handlers_of_others_are_not_covered(write_jsonl):
    input = InputOptions(input=[write_jsonl(ROWS["plain"])])
    found = dataclasses.replace(resolve_input(input, say=say_nothing), handler="tickets")
    with pytest.raises(ConfigError, match="does not know how MindSpeed-LLM treats rows of 'tickets'") as caught:
        mindspeed_input(found, input)
    assert caught.value.code == "SP027"


def test_tokens_that_are_added_are_named(runs, write_jsonl, tokenizers):
    options = {"compat": "mindspeed", "prompt_type": "glm4", "tokenizer": tokenizers / "qwen"}
    note = runs.preprocess(write_jsonl(ROWS["plain"]), **options).note
    assert "<|user|> (3000), <|observation|> (3001)" in note


def test_a_folder_of_several_endings_loses_all_but_the_most_frequent(runs, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    row = {"instruction": "Hi", "input": "", "output": "Hello"}
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(json.dumps(row) + "\n")
    (folder / "c.json").write_text(json.dumps([row] * 5))
    assert runs.preprocess(folder, compat="mindspeed").ledger.kept.samples == 2
    assert runs.preprocess(folder, "right").ledger.kept.samples == 7
    (folder / "b.jsonl").unlink()
    with pytest.raises(ConfigError, match="as many"):
        runs.preprocess(folder, "tie", compat="mindspeed")


def test_the_reference_can_differ(runs, write_jsonl):
    """The comparison sees a change of one flag."""
    directory = GOLDEN / "mindspeed" / "tokenizers" / "qwen"
    flags = Flags(ALPACA, "qwen")
    files = [
        Program(dataclasses.replace(flags, append_eod=eod), directory, TEMPLATES).files(ROWS["plain"])
        for eod in (False, True)
    ]
    assert files[0]["labels.bin"] != files[1]["labels.bin"]
