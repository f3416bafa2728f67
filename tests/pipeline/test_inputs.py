"""Which handler reads which file: --handler auto, data sets by name, handlers with options of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, DataError, PluginError
from seqpack.core.types import Message, Sample, Span
from seqpack.hooks import host
from seqpack.hooks.component import Component
from seqpack.hooks.specs import HandlerOptions, make_handler
from seqpack.io import shards
from seqpack.options.data import InputOptions
from seqpack.pipeline.auto_handler import FIRST_ROWS
from seqpack.pipeline.inputs import kind_of, resolve_input

ALPACA = {"instruction": "Hi", "output": "Hello"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
OPENAI = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
TEXT = {"text": "Hello"}


def resolved(*files: Path, say: list[str] | None = None, **options: Any) -> Any:
    return resolve_input(InputOptions(input=list(files), **options), say=(say if say is not None else []).append)


def failure(*files: Path, kind: type[Exception] = DataError, **options: Any) -> Any:
    with pytest.raises(kind) as error:
        resolved(*files, **options)
    return error.value


@pytest.mark.parametrize(
    ("row", "name", "why"),
    [
        (ALPACA, "AlpacaStyleInstructionHandler", "(alpaca), because of columns 'instruction', 'output'"),
        (SHAREGPT, "SharegptStyleInstructionHandler", "(sharegpt), because of column 'conversations' with messages"),
        (OPENAI, "OpenAIInstructionHandler", "(openai), because of column 'messages' with messages of 'role'"),
        (TEXT, "GeneralPretrainHandler", "(text), because of column 'text'"),
    ],
)
def test_auto_says_what_it_chose_and_why(write_jsonl, row, name, why):
    said: list[str] = []
    found = resolved(write_jsonl([row]), say=said)
    assert found.handler == found.recipe["handler"] == name
    assert len(said) == 1 and said[0].startswith(f"handler {name} {why}")
    assert bool(found.text_keys) == (row is TEXT)


def test_the_chosen_handler_is_in_the_manifest(runs, write_jsonl):
    manifest = runs.preprocess(write_jsonl([SHAREGPT])).manifest
    assert manifest.recipe["handler"] == "SharegptStyleInstructionHandler"


@pytest.mark.parametrize(
    ("row", "phrases"),
    [
        ({"question": "Hi", "answer": "Hello"}, ("no handler fits", "columns are: question, answer")),
        (ALPACA | TEXT, ("several handlers fit: alpaca", "and text (column 'text')", "instruction, output, text")),
        ({"chosen": {}, "rejected": {}}, ("no handler fits", "columns are: chosen, rejected")),
    ],
)
def test_auto_does_not_guess(write_jsonl, row, phrases):
    error = failure(write_jsonl([row]))
    assert error.code == "SP131" and all(phrase in error.message for phrase in phrases), error.message
    assert "alpaca | sharegpt | openai | text" in error.help


def test_files_of_several_kinds_are_refused(write_jsonl):
    error = failure(write_jsonl([ALPACA], "a.jsonl"), write_jsonl([TEXT], "b.jsonl"))
    assert error.code == "SP131" and "a.jsonl: alpaca" in error.message and "b.jsonl: text" in error.message


def test_a_file_without_rows_says_nothing(write_jsonl):
    assert resolved(write_jsonl([], "a.jsonl"), write_jsonl([TEXT], "b.jsonl")).handler == "GeneralPretrainHandler"
    assert failure(write_jsonl([], "a.jsonl")).code == "SP109"


def test_rows_that_are_no_objects(write_jsonl):
    assert resolved(write_jsonl([3, ALPACA])).handler == "AlpacaStyleInstructionHandler"
    error = failure(write_jsonl([3, [4]]))
    assert error.code == "SP131" and "int, list, not objects" in error.message


def test_a_later_row_of_another_kind_is_rejected_and_counted(runs, write_jsonl):
    ledger = runs.preprocess(write_jsonl([ALPACA] * FIRST_ROWS + [SHAREGPT])).ledger
    assert ledger.rejected == {"no column 'instruction'": 1}
    assert "several handlers fit" in failure(write_jsonl([ALPACA, SHAREGPT])).message


def test_options_a_handler_does_not_use_are_refused(write_jsonl):
    file = write_jsonl([ALPACA])
    for options in ({"json_keys": ["text"], "handler": "alpaca"}, {"dataset_dir": Path()}):
        assert failure(file, kind=ConfigError, **options).code == "SP020"
    assert "did you mean 'prompt'" in failure(file, kind=ConfigError, map_keys='{"promt": "q"}').help


def test_tags_are_an_object_and_columns_are_not(write_jsonl):
    row = {"chat": [{"who": "human", "value": "Hi"}, {"who": "gpt", "value": "Hello"}]}
    map_keys = json.dumps({"messages": "chat", "tags": {"role_tag": "who"}})
    assert resolved(write_jsonl([row]), map_keys=map_keys).handler == "SharegptStyleInstructionHandler"
    for wrong in ('{"messages": {"a": "b"}}', '{"tags": {"role_tag": 3}}'):
        assert failure(write_jsonl([row]), kind=ConfigError, map_keys=wrong).code == "SP010"


def test_data_sets_by_name(runs, write_jsonl, tmp_path):
    write_jsonl([ALPACA], "a.jsonl")
    write_jsonl([SHAREGPT, SHAREGPT], "folder/b.jsonl")
    entries = {"one": {"file_name": "a.jsonl"}, "two": {"file_name": "folder", "formatting": "sharegpt"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    result = runs.preprocess(Path("two,one"), handler="llamafactory", dataset_dir=tmp_path)
    assert result.ledger.kept.samples == 3
    assert [Path(name).name for name in result.manifest.inputs] == ["b.jsonl", "a.jsonl"]
    assert result.manifest.recipe["datasets"] == ["two,one"]
    assert len({tuple(row.input_ids.tolist()) for row in runs.open("out")}) == 1


def test_append_eod_does_not_double_the_end(runs, write_jsonl):
    said: list[str] = []
    file = write_jsonl([ALPACA, ALPACA])
    runs.preprocess(file, "plain")
    runs.preprocess(file, "ended", append_eod=True, say=said.append)
    assert runs.open("plain").tokens.tolist() == runs.open("ended").tokens.tolist()
    assert said[-1] == "--append-eod: 2 of 2 samples end with the end token already; it was not doubled"


class OpenEnded:
    """A template whose replies end with a line break, behind the end token."""

    def spans(self, sample: Sample) -> Iterator[Span]:
        for turn, message in enumerate(sample.messages):
            train = message.role == "assistant" and message.train is not False
            yield Span(message.content + "\n", train, turn // 2, (0, len(message.content)))


@pytest.fixture
def open_ended(monkeypatch) -> None:
    made = host.PluginHost([])
    made.templates.add_all([Component("open", f"{__name__}:OpenEnded", "", plugin="test")])
    for module in ("pipeline.inputs", "text.catalog"):
        monkeypatch.setattr(f"seqpack.{module}.plugin_host", lambda: made)


@pytest.mark.usefixtures("open_ended")
@pytest.mark.parametrize("seq_length", [None, 12, 40])
def test_append_eod_ends_every_sample_and_is_trained(runs, write_jsonl, seq_length):
    said: list[str] = []
    rows = [ALPACA, ALPACA | {"output": "water " * 30}, ALPACA | {"output": "water " * 11}]
    options = {"prompt_type": "open", "append_eod": True, "seq_length": seq_length}
    manifest = runs.preprocess(write_jsonl(rows), say=said.append, **options).manifest
    dataset = runs.open("out")
    assert said[-1] == "--append-eod: the end token was appended to 3 samples, and is trained on"
    assert len(dataset) == 3 and manifest.recipe["append_eod"] is True
    for row in dataset:
        assert row.input_ids[-1] == row.labels[-1] == 0 and 0 not in row.input_ids[:-1]
        assert seq_length is None or len(row) <= seq_length
    assert seq_length != 12 or (dataset.row_lengths == 12).sum() == 2


@pytest.mark.usefixtures("open_ended")
def test_append_eod_does_not_save_a_sample_without_training(runs, write_jsonl):
    human, gpt = SHAREGPT["conversations"]
    untrained = {"conversations": [human | {"train": True}, gpt | {"train": False}]}
    result = runs.preprocess(write_jsonl([untrained, SHAREGPT]), prompt_type="open", append_eod=True, max_drop=1.0)
    assert list(result.ledger.dropped) == ["nothing to train on"] and result.ledger.kept.samples == 1


@pytest.mark.usefixtures("open_ended")
@pytest.mark.parametrize("rows", [[ALPACA, SHAREGPT], [ALPACA | {"output": "<|endoftext|>"}, SHAREGPT]])
def test_workers_read_each_file_its_own_way(runs, write_jsonl, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(shards, "SHARD_BYTES", 50)
    entries = {"one": {"file_name": "a.jsonl"}, "two": {"file_name": "b.jsonl", "formatting": "sharegpt"}}
    for name, row in zip("ab", rows, strict=True):
        write_jsonl([row] * 20, f"{name}.jsonl")
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    said: dict[int, list[str]] = {1: [], 3: []}
    for workers, lines in said.items():
        options = {"handler": "llamafactory", "dataset_dir": tmp_path, "prompt_type": "open", "append_eod": True}
        runs.preprocess(Path("one,two"), f"by{workers}", workers=workers, say=lines.append, **options)
    assert runs.open("by1").tokens.tolist() == runs.open("by3").tokens.tolist()
    assert said[1] == said[3] and "40 samples" in said[1][-1]


@pytest.mark.usefixtures("open_ended")
def test_half_a_character_in_the_arguments_of_a_tool_is_rejected(runs, write_jsonl):
    call = {"type": "function", "function": {"name": "say", "arguments": '{"text": "\\ud800"}'}}
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]}
    result = runs.preprocess(write_jsonl([row, OPENAI]), prompt_type="open", max_drop=0.5)
    assert list(result.ledger.rejected) == ["text with half a surrogate pair, which is not Unicode"]


class EchoHandler:
    """A handler of a third party, as handlers were written before there were options."""

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        self.columns = columns

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        yield Sample((Message("assistant", str(self.columns)),))


@pytest.mark.parametrize("prompt_type", ["qwen", "qwen3", "chat-template"])
def test_json_inside_a_text_that_is_nested_too_deeply(runs, write_jsonl, tmp_path, tokenizer_dir, prompt_type):
    """The reader cannot see it, since it is a text to it; one such row must not end the run."""
    deep = "[" * 50_000 + "]" * 50_000
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    call = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": f'{{"name": "f", "arguments": {deep}}}'},
    ]
    quoted = [call[0], {"from": "function_call", "value": json.dumps({"name": "f", "arguments": deep})}]
    rows = [good, {"conversations": call}, {"conversations": quoted}, {**good, "tools": deep}]
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}{{ m.tool_calls }}\n{% endfor %}")
    options = {"prompt_type_path": tmp_path / "chat.jinja"} if prompt_type == "chat-template" else {}
    ledger = runs.preprocess(write_jsonl(rows), prompt_type=prompt_type, max_drop=1.0, **options).ledger
    assert ledger.kept.samples == 1 and ledger.num_rejected == 3


def test_a_handler_without_options_gets_its_columns():
    component: Component[Any] = Component("echo", f"{__name__}:EchoHandler", "")
    handler = make_handler(component, HandlerOptions(columns={"a": "b"}))
    (sample,) = handler({})
    assert sample.messages[0].content == "{'a': 'b'}"
    with pytest.raises(ConfigError, match="'echo' does not use --dataset-dir"):
        make_handler(component, HandlerOptions(columns={}, dataset_dir=Path("data")))


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ({"kind": "dpo"}, "kind 'dpo' is none of sft, pretrain, pairwise, prompt"),
        ({"kind": "pretrain"}, "kind 'pretrain' goes with text_keys"),
        ({"kind": "sft", "text_keys": ("text",)}, "kind 'sft' goes with no text_keys"),
        ({"kind": "pairwise"}, "kind 'pairwise' goes with column_names"),
    ],
)
def test_a_handler_that_contradicts_itself(says, problem):
    handler = EchoHandler({})
    for name, value in says.items():
        setattr(handler, name, value)
    with pytest.raises(PluginError, match=f"^handler 'echo': {problem}") as caught:
        kind_of(handler, "echo")
    assert caught.value.code == "SP021"


class TwiceHandler(EchoHandler):
    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        for _ in range(2):
            yield Sample((Message("user", record["q"]), Message("assistant", "Hi.")))


def test_a_mended_row_of_several_samples_is_mended_once(runs, tmp_path, monkeypatch):
    made = host.PluginHost([])
    made.handlers.add_all([Component("twice", f"{__name__}:TwiceHandler", "", plugin="test")])
    monkeypatch.setattr("seqpack.pipeline.inputs.plugin_host", lambda: made)
    (tmp_path / "rows.jsonl").write_text('{"q": "\\ud83d"}\n{"q": "b"}\n')
    result = runs.preprocess(tmp_path / "rows.jsonl", handler="twice")
    assert (result.ledger.kept.samples, result.ledger.mended) == (4, 1)
    losses = [json.loads(line) for line in result.paths.rejects.read_text().splitlines()]
    assert [(loss["key"].rpartition(":")[2], loss["outcome"]) for loss in losses] == [("1", "mended")]
