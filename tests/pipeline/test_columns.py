"""Preference pairs and prompts: a file pair for each column, nothing cut, everything counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from seqpack.core.errors import ConfigError, DataError, FormatError
from seqpack.core.types import IGNORE_INDEX
from seqpack.handlers.pairwise import PAIRWISE_COLUMNS
from seqpack.io import shards
from seqpack.io.indexed import IndexedDataset
from seqpack.options.data import MergeOptions
from seqpack.pipeline import columns as columns_module
from seqpack.pipeline.column_parts import make_column_part
from seqpack.pipeline.output import PartsResult
from seqpack.pipeline.preprocess import merge
from seqpack.text.tokenizer import Tokenizer

from .conftest import Runs

PAIR = {"instruction": "Greet.", "input": "", "chosen": "Hello there.", "rejected": "Go away, please."}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "And now?"}]
CHAT = {
    "conversations": TURNS,
    "chosen": {"from": "gpt", "value": "Now this."},
    "rejected": {"from": "gpt", "value": "No."},
}
ALPACA = {"instruction": "Add.", "input": "1 and 1", "output": "It is 2.", "level": "easy"}


@pytest.fixture
def columns(runs):
    """``columns(result)``: the rows of each column as lists."""

    def columns(result) -> dict[str, list[list[int]]]:
        return {
            key: [row.tolist() for row in IndexedDataset(result.paths.column(key))] for key in result.manifest.texts
        }

    return columns


def text_of(runs, ids: list[int]) -> str:
    return Tokenizer(runs.tokenizer).decode(ids)


@pytest.mark.parametrize("row", [PAIR, CHAT], ids=["alpaca", "sharegpt"])
def test_a_pair_is_two_answers_to_one_prompt(runs, write_jsonl, columns, row):
    result = runs.preprocess(write_jsonl([row, row]))
    assert result.manifest.kind == "pairwise"
    found = columns(result)
    assert tuple(found) == PAIRWISE_COLUMNS
    texts = {}
    for name in ("chosen", "rejected"):
        ids, labels = found[f"{name}_input_ids"][0], found[f"{name}_labels"][0]
        trained = [label != IGNORE_INDEX for label in labels]
        first = trained.index(True)
        assert all(trained[first:]), "the answer is trained on up to its end"
        assert labels[first:] == ids[first:]
        texts[name] = (text_of(runs, ids[:first]), text_of(runs, ids[first:]))
    assert texts["chosen"][0] == texts["rejected"][0]
    answers = [row[name]["value"] if row is CHAT else row[name] for name in ("chosen", "rejected")]
    assert [texts[name][1] for name in texts] == [f"{answer}<|im_end|>" for answer in answers]
    ledger = result.ledger
    assert (ledger.kept.samples, ledger.kept.tokens) == (2, sum(len(ids) for key in found for ids in found[key]) // 2)
    assert ledger.trained == sum(label != IGNORE_INDEX for key in found for ids in found[key] for label in ids
                                 if key.endswith("labels"))  # fmt: skip
    ledger.check()


def test_what_cannot_be_used_or_is_too_long_is_counted(runs, write_jsonl, columns):
    rows = [PAIR] * 8 + [PAIR | {"rejected": 3}, PAIR | {"chosen": "Hello " * 50}]
    result = runs.preprocess(write_jsonl(rows), seq_length=60, max_drop=0.5)
    assert result.ledger.rejected == {"'rejected' is int, not one text": 1}
    assert list(result.ledger.dropped) == ["longer than --seq-length"]
    assert {len(rows) for rows in columns(result).values()} == {8}
    losses = [json.loads(line) for line in result.paths.rejects.read_text().splitlines()]
    assert [loss["outcome"] for loss in losses] == ["rejected", "dropped"]
    with pytest.raises(DataError, match="do not fit --seq-length"):
        runs.preprocess(write_jsonl(rows), "b", seq_length=60, max_drop=0.5, on_overlong="error")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"neat_pack": True, "seq_length": 64}, "SP134"),
        ({"train_on": "last"}, "SP028"),
        ({"append_eod": True}, "SP028"),
        ({"emit": "pai"}, "SP008"),
    ],
)
def test_flags_that_make_no_sense_for_pairs_are_errors(runs, write_jsonl, options, code):
    with pytest.raises(ConfigError) as caught:
        runs.preprocess(write_jsonl([PAIR]), **options)
    assert caught.value.code == code
    assert runs.files() == {}


def test_other_commands_say_what_such_a_set_is(runs, write_jsonl):
    file = write_jsonl([PAIR])
    runs.preprocess(file)
    with pytest.raises(FormatError, match="holds preference pairs") as caught:
        runs.open("out")
    assert caught.value.code == "SP134"
    with pytest.raises(ConfigError, match="stats measures conversations and text only"):
        runs.stats(file)


def test_a_prompt_ends_where_the_reply_begins(runs, write_jsonl, columns):
    result = runs.preprocess(write_jsonl([ALPACA]), handler="PPOAlpacaStyleInstructionHandler")
    assert result.manifest.kind == "prompt"
    found = columns(result)
    assert list(found) == ["input_ids", "attention_mask"]
    assert text_of(runs, found["input_ids"][0]).endswith(
        "<|im_start|>user\nAdd.\n1 and 1<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found["attention_mask"] == [[1] * len(found["input_ids"][0])]
    assert result.ledger.trained == 0


@pytest.mark.parametrize(
    ("thinking", "ends"), [("none", "assistant\n"), ("true", "assistant\n"), ("false", "</think>\n\n")]
)
def test_a_prompt_of_a_thinking_model_lets_it_think(runs, write_jsonl, columns, thinking, ends):
    result = runs.preprocess(write_jsonl([ALPACA]), handler="ppo", prompt_type="qwen3", enable_thinking=thinking)
    assert text_of(runs, columns(result)["input_ids"][0]).endswith(ends)


@pytest.mark.parametrize("handler", ["r1-alpaca", "r1-sharegpt"])
def test_further_columns_are_texts(runs, write_jsonl, columns, handler):
    chat = {"conversations": [*TURNS[:1], {"from": "gpt", "value": "It is 2."}], "level": "easy"}
    row = ALPACA if handler == "r1-alpaca" else chat
    result = runs.preprocess(write_jsonl([row]), handler=handler, dataset_additional_keys=["labels", "level"])
    found = columns(result)
    assert list(found) == ["input_ids", "attention_mask", "labels", "level"]
    assert [text_of(runs, found[key][0]) for key in ("labels", "level")] == ["It is 2.", "easy"]
    assert result.manifest.recipe["dataset_additional_keys"] == ["labels", "level"]


def test_keys_belong_to_those_handlers(runs, write_jsonl):
    with pytest.raises(ConfigError, match="does not use --dataset-additional-keys"):
        runs.preprocess(write_jsonl([ALPACA]), handler="alpaca", dataset_additional_keys=["level"])
    with pytest.raises(ConfigError, match="is a column already"):
        runs.preprocess(write_jsonl([ALPACA]), handler="r1-alpaca", dataset_additional_keys=["input_ids"])


def test_control_text_of_the_data_stays_text(runs, write_jsonl, columns):
    tricky = PAIR | {"chosen": "<|im_end|> is a token"}
    ids = np.array(columns(runs.preprocess(write_jsonl([tricky])))["chosen_input_ids"][0])
    end = Tokenizer(runs.tokenizer).token_id("<|im_end|>")
    assert (ids == end).sum() == 3, "system, user and the end of the answer"


@pytest.mark.parametrize("name", ["HunyuanInstructionHandler", "MOSSMultiTurnHandler"])
def test_handlers_that_are_elsewhere_say_where(runs, write_jsonl, name, monkeypatch):
    monkeypatch.setenv("SEQPACK_LOAD_PLUGINS", "")
    from seqpack.hooks.host import PluginHost

    with pytest.raises(ConfigError, match=name) as caught:
        PluginHost([]).handler(name)
    assert "chat-template" in caught.value.help or "pip install" in caught.value.help


@pytest.fixture
def mixed(write_jsonl, monkeypatch):
    """Pairs of all fates, in many shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 300)
    fates = [PAIR, PAIR | {"chosen": "Hello " * 50}, PAIR | {"rejected": 3}, PAIR | {"chosen": "half: \ud83d"}]
    return write_jsonl([json.dumps(fates[n % 4] | {"n": n}) for n in range(24)])


OPTIONS = {"seq_length": 60, "max_drop": 0.9}


def files_of(runs) -> dict[str, bytes]:
    """All files but the two that tell how they were made."""
    return {name: data for name, data in runs.files().items() if "manifest" not in name and "resolved" not in name}


@pytest.mark.parametrize("mode", [{}, {"compat": "mindspeed", "handler": "AlpacaStylePairwiseHandler"}])
def test_workers_and_shares_do_not_show(runs, mixed, tmp_path, tokenizer_dir, mode):
    if mode:  # MindSpeed-LLM stops at such a row
        mixed.write_text(mixed.read_text().replace('"rejected": 3', '"rejected": "3"'))
    one = runs.preprocess(mixed, **OPTIONS, **mode, workers=1)
    assert one.ledger.dropped and one.ledger.mended and bool(one.ledger.rejected) == (not mode)
    several, shares = Runs(tmp_path / "several", tokenizer_dir), Runs(tmp_path / "shares", tokenizer_dir)
    assert several.preprocess(mixed, **OPTIONS, **mode, workers=3).ledger == one.ledger
    for number in (1, 0):
        left = shares.preprocess(mixed, **OPTIONS, **mode, workers=1, shard_index=number, num_shards=2)
        assert isinstance(left, PartsResult)
    merged = merge(MergeOptions(output_prefix=shares.folder / "out"))
    assert merged.ledger == one.ledger and merged.manifest.inputs == one.manifest.inputs
    assert files_of(runs) == files_of(several) == files_of(shares) and len(files_of(runs)) == 9


def test_a_run_that_failed_goes_on(runs, mixed, monkeypatch):
    text = mixed.read_text()
    mixed.write_text(text + '{"broken\n')
    with pytest.raises(DataError, match="not valid JSON"):
        runs.preprocess(mixed, **OPTIONS, workers=1)
    finished = {name for name in runs.files() if name.endswith("done.json")}
    assert len(finished) > 5
    mixed.write_text(text + json.dumps(PAIR) + "\n")
    made = []
    monkeypatch.setattr(
        columns_module, "make_column_part", lambda *args: made.append(args[2]) or make_column_part(*args)
    )
    result = runs.preprocess(mixed, **OPTIONS, workers=1)
    assert 1 <= len(made) <= 2, "only what was missing"
    assert result.ledger.rows == 25 and not [name for name in runs.files() if ".parts" in name]
    assert runs.preprocess(mixed, **OPTIONS).is_unchanged
