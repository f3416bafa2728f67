"""Data sets by name out of dataset_info.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.handlers.llamafactory import LlamaFactoryHandler
from seqpack.hooks.specs import HandlerOptions

OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
ENTRIES: dict[str, Any] = {
    "plain": {"file_name": "plain.json"},
    "renamed": {"file_name": "sub/a.json", "columns": {"prompt": "q", "query": "", "response": "a"}},
    "chat": {"file_name": "chat.json", "formatting": "sharegpt", "columns": {"messages": "m"}, "tags": OPENAI_TAGS},
    "openai": {"file_name": "chat.json", "formatting": "openai", "columns": {"messages": "m"}},
    "hub": {"hf_hub_url": "someone/something"},
    "both": {"hf_hub_url": "someone/something", "file_name": "plain.json"},
    "ranking": {"file_name": "dpo.json", "ranking": True},
    "ranked chat": {"file_name": "dpo.json", "ranking": True, "formatting": "sharegpt"},
    "ranked openai": {"file_name": "dpo.json", "ranking": True, "formatting": "openai"},
    "images": {"file_name": "plain.json", "columns": {"images": "pictures"}},
    "odd": {"file_name": "plain.json", "columnz": {}},
    "form": {"file_name": "plain.json", "formatting": "sharegtp"},
    "tagged": {"file_name": "plain.json", "tags": {}},
    "nothing": {},
    "text": "plain.json",
    "list": {"file_name": "plain.json", "columns": ["q"]},
}
CHAT = {"m": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture
def handler(tmp_path: Path) -> LlamaFactoryHandler:
    (tmp_path / "dataset_info.json").write_text(json.dumps(ENTRIES))
    return LlamaFactoryHandler.from_options(HandlerOptions(columns={}, dataset_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("plain", "plain.json", {"instruction": "Hi", "output": "Hello"}),
        ("renamed", "sub/a.json", {"q": "Hi", "a": "Hello"}),
        ("chat", "chat.json", CHAT),
        ("openai", "chat.json", CHAT),
        ("both", "plain.json", {"instruction": "Hi", "output": "Hello"}),
    ],
)
def test_an_entry_is_a_file_and_a_way_to_read_it(handler, tmp_path, name, file, row):
    ((path, rows),) = handler.datasets([name])
    (sample,) = rows(row)
    assert path == tmp_path / file
    assert [(message.role, message.content) for message in sample.messages] == [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("ranking", {"instruction": "Hi", "chosen": "Hello", "rejected": "Go"}),
        (
            "ranked chat",
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello"},
                "rejected": {"from": "gpt", "value": "Go"},
            },
        ),
    ],
)
def test_ranking_data_sets_are_preference_pairs(handler, name, row):
    ((_, rows),) = handler.datasets([name])
    (pair,) = rows(row)
    assert [(pair.chosen.messages[-1].content, pair.rejected.messages[-1].content)] == [("Hello", "Go")]


def test_names_are_separated_by_commas(handler):
    assert [path.name for path, _ in handler.datasets(["plain, chat", "both"])] == [
        "plain.json", "chat.json", "plain.json",
    ]  # fmt: skip


def test_columns_that_are_not_named_are_not_read(handler):
    ((_, rows),) = handler.datasets(["plain"])
    (sample,) = rows({"instruction": "Hi", "output": "Hello", "system": "Be kind.", "history": [["a", "b"]]})
    assert len(sample.messages) == 2


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("plane", "did you mean 'plain'"),
        ("hub", "not a local file"),
        ("images", "no part 'images'"),
        ("ranked openai", "unknown formatting 'openai'"),
        ("odd", "did you mean 'columns'"),
        ("form", "did you mean 'sharegpt'"),
        ("tagged", "tags, which alpaca rows do not"),
        ("nothing", "no file_name"),
        ("text", "not an object"),
        ("list", "columns that are not an object"),
    ],
)
def test_what_cannot_be_used_is_named(handler, name, phrase):
    with pytest.raises(ConfigError, match=phrase) as error:
        handler.datasets([name])
    assert error.value.code == "SP022" and repr(name) in error.value.message


def test_a_folder_is_needed(tmp_path):
    with pytest.raises(ConfigError, match="--dataset-dir"):
        LlamaFactoryHandler.from_options(HandlerOptions(columns={}))
    with pytest.raises(DataError, match="there is no") as error:
        LlamaFactoryHandler.from_options(HandlerOptions(columns={}, dataset_dir=tmp_path))
    assert error.value.code == "SP101"
    for wrong in ("{", "[]"):
        (tmp_path / "dataset_info.json").write_text(wrong)
        with pytest.raises(DataError) as error:
            LlamaFactoryHandler.from_options(HandlerOptions(columns={}, dataset_dir=tmp_path))
        assert error.value.code == "SP103"
