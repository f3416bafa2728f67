"""Pretraining text to documents on disk; bytes as MindSpeed-LLM's where both mean the same."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, DataError, FormatError
from seqpack.io.indexed import IndexedDataset, bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TextRecord
from seqpack.io.packed import DataSetPaths
from seqpack.io.readers import resolve_inputs
from seqpack.text.tokenizer import Tokenizer
from tests.conftest import GOLDEN

from .test_golden import MORE, needs_more

FOLDERS = [
    GOLDEN / "pretrain_eod_llama3",
    GOLDEN / "pretrain_eod_qwen_two_keys",
    pytest.param(MORE / "pretrain_qwen", marks=needs_more),
    pytest.param(MORE / "pretrain_eod_qwen", marks=needs_more),
]
ROWS = [{"text": "Once upon a time."}, {"text": ""}, {"text": "The end."}]


def documents(runs: Any, key: str = "text", name: str = "out") -> list[list[int]]:
    return [ids.tolist() for ids in IndexedDataset(runs.folder / f"{name}_{key}_document")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_are_identical_to_the_golden_ones(runs, folder):
    words = shlex.split((folder / "args.txt").read_text())
    keys = words[words.index("--json-keys") + 1 :] if "--json-keys" in words else []
    value = {flag: words[words.index(flag) + 1] for flag in ("--input", "--tokenizer-name-or-path", "--handler-name")}
    paths = runs.preprocess(
        folder.parent / value["--input"],
        tokenizer=folder.parent / value["--tokenizer-name-or-path"],
        handler=value["--handler-name"],
        json_keys=keys,
        append_eod="--append-eod" in words,
    ).paths
    for key in keys or ["text"]:
        for kind in (bin_path, idx_path):
            expected = kind(folder / f"data_{key}_document")
            assert kind(paths.column(key)).read_bytes() == expected.read_bytes(), expected.name


def test_the_manifest_says_what_it_is(runs, write_jsonl):
    file = write_jsonl(ROWS)
    result = runs.preprocess(file, max_drop=0.5, append_eod=True)
    manifest, ledger = Manifest.read(result.paths.manifest), result.ledger
    assert manifest == result.manifest and manifest.kind == "pretrain" and not manifest.packed
    lengths = [len(ids) for ids in documents(runs)]
    assert manifest.texts == {"text": TextRecord(2, 0, sum(lengths))}
    assert (manifest.num_rows, manifest.num_samples) == (2, 2)
    assert (ledger.trained, ledger.context, ledger.kept.samples) == (sum(lengths), 0, 2)
    assert ledger.rejected == {"empty 'text'": 1}
    assert manifest.recipe == {
        "handler": "GeneralPretrainHandler",
        "map_keys": {},
        "json_keys": ["text"],
        "append_eod": True,
        "compat": "none",
        "n_subs": None,
        "pad_to_multiple_of": None,
        "on_overlong": "truncate",
        "split_sft": False,
        "seq_length": None,
        "packing": None,
        "dedup": "none",
        "emit": "megatron",
        "tokenizer_engine": result.engine.label,
    }
    assert manifest.inputs == {str(file): replace(FileRecord.of(file), modified=file.stat().st_mtime_ns)}
    assert {*result.paths.files, result.paths.manifest} == set(runs.folder.iterdir())
    assert json.loads(result.paths.rejects.read_text())["key"] == f"{file}:2"


def test_an_empty_column_keeps_its_place(runs, write_jsonl):
    rows = [{"a": "One", "b": ""}, {"a": None, "b": "Two"}, {"a": "", "b": ""}, {"a": "Three", "b": "Four"}]
    said: list[str] = []
    result = runs.preprocess(write_jsonl(rows), json_keys=["a", "b"], max_drop=0.5, append_eod=True, say=said.append)
    first, second = documents(runs, "a"), documents(runs, "b")
    assert [len(ids) > 0 for ids in first] == [True, False, True]
    assert [len(ids) > 0 for ids in second] == [False, True, True]
    assert result.manifest.texts["a"] == TextRecord(3, 1, sum(map(len, first)))
    assert result.ledger.rejected == {"empty 'a', 'b'": 1}
    assert "1 of 3 rows have no 'a': an empty document keeps their place" in said


def test_the_end_token_is_not_doubled(runs, write_jsonl, tokenizer_dir):
    end = Tokenizer(tokenizer_dir).eos_token_id
    runs.preprocess(write_jsonl([{"text": "Hi"}, {"text": "Hi<|endoftext|>"}]), append_eod=True)
    first, second = documents(runs)
    assert first == second and first[-1] == end != first[-2]


def test_batches_do_not_show_in_the_result(runs, write_jsonl, monkeypatch):
    file = write_jsonl([{"text": f"Row {number}."} for number in range(7)])
    runs.preprocess(file, "one")
    monkeypatch.setattr("seqpack.pipeline.documents.DOCUMENTS_PER_BATCH", 2)
    runs.preprocess(file, "two")
    assert documents(runs, name="one") == documents(runs, name="two")


def test_text_cannot_be_packed_and_length_has_no_effect(runs, write_jsonl):
    file = write_jsonl(ROWS[:1])
    with pytest.raises(ConfigError, match="cannot be packed yet") as error:
        runs.preprocess(file, pack=True, seq_length=16)
    assert error.value.code == "SP133" and runs.files() == {}
    said: list[str] = []
    runs.preprocess(file, seq_length=16, say=said.append)
    assert "--seq-length 16 has no effect on pretraining text: documents stay whole" in said


def test_nothing_usable_leaves_nothing(runs, write_jsonl):
    with pytest.raises(DataError, match="none of 1 rows") as error:
        runs.preprocess(write_jsonl(ROWS[1:2]))
    assert error.value.code == "SP109" and runs.files() == {}


def test_text_is_not_taken_for_samples(runs, write_jsonl):
    runs.preprocess(write_jsonl(ROWS[:1]))
    for name in ("out", "out_packed"):
        with pytest.raises(FormatError, match="holds pretraining text") as error:
            runs.open(name)
        assert error.value.code == "SP132"
    with pytest.raises(FormatError, match="holds pretraining text"):
        runs.repack("out", "packed", seq_length=16)


def test_samples_and_text_may_share_a_prefix(runs, write_jsonl, alpaca):
    runs.preprocess(write_jsonl(ROWS[:1]))
    runs.preprocess(alpaca)
    assert len(runs.open("out")) == 40 and len(documents(runs)) == 1
    assert runs.preprocess(write_jsonl(ROWS[:1])).is_unchanged
    assert DataSetPaths(runs.folder / "out").manifest.exists()


def test_a_tokenizer_without_an_end_token_is_refused(runs, write_jsonl, tmp_path, tokenizer_dir):
    directory = tmp_path / "endless"
    directory.mkdir()
    (directory / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    with pytest.raises(ConfigError, match="names no end token") as error:
        runs.preprocess(write_jsonl(ROWS[:1]), tokenizer=directory, append_eod=True)
    assert error.value.code == "SP016"


def test_half_a_character_is_mended_and_counted(runs, write_jsonl):
    file = write_jsonl(['{"text": "\\ud800"}', *ROWS[:1]])
    result = runs.preprocess(file)
    assert (result.ledger.mended, result.ledger.rejected, len(documents(runs))) == (1, {}, 2)
    assert Tokenizer(runs.tokenizer).decode(documents(runs)[0]) == "\ufffd"
    loss = json.loads(result.paths.rejects.read_text())
    assert (loss["key"], loss["outcome"]) == (f"{file}:1", "mended")


def test_all_handlers_of_text_write_sets(runs, write_jsonl):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": " there"}]
    row = {"conversations": turns, "instruction": "Add.", "output": "2"}
    runs.preprocess(write_jsonl([row]), "chat", handler="SharegptPretrainHandler")
    runs.preprocess(write_jsonl([row]), "alpaca", handler="AlpacaPretrainHandler")
    tokenizer = Tokenizer(runs.tokenizer)
    assert [tokenizer.decode(ids) for ids in documents(runs, "conversations", "chat")] == ["Hi there"]
    assert tokenizer.decode(documents(runs, "text", "alpaca")[0]).endswith("### Response: ASSISTANT: 2")


def test_files_are_named_by_prefix_and_key(runs, write_jsonl):
    runs.preprocess(write_jsonl(ROWS[:1]))
    assert set(runs.files()) == {
        "out_text_document.bin", "out_text_document.idx", "out_manifest.json", "out_rejects.jsonl", "out_resolved.yaml",
    }  # fmt: skip


def test_mindspeed_drops_long_documents_and_leaves_out_empty_ones(runs, write_jsonl):
    rows = [{"a": "One", "b": ""}, {"a": "water " * 30, "b": "Two"}, {"a": "Three", "b": "Four"}]
    said: list[str] = []
    options = {"json_keys": ["a", "b"], "append_eod": True, "seq_length": 12, "compat": "mindspeed"}
    result = runs.preprocess(write_jsonl(rows), say=said.append, **options)
    decode = Tokenizer(runs.tokenizer).decode
    end = Tokenizer(runs.tokenizer).eos_token
    assert [decode(ids) for ids in documents(runs, "a")] == [f"One{end}", f"Three{end}"]
    assert [decode(ids) for ids in documents(runs, "b")] == [f"Two{end}"]
    assert IndexedDataset(result.paths.column("a")).document_indices.tolist() == [0, 1, 1, 2]
    assert IndexedDataset(result.paths.column("b")).document_indices.tolist() == [0, 1, 1]
    assert (result.ledger.kept.samples, result.ledger.truncated.samples) == (3, 2)
    assert "rows do not match any more" in said[-1]
    assert result.manifest.recipe["compat"] == "mindspeed"


def test_more_subsets_than_rows_are_an_error_there(runs, write_jsonl):
    with pytest.raises(ConfigError, match="there are only 1 rows") as error:
        runs.preprocess(write_jsonl(ROWS[:1]), compat="mindspeed", n_subs=2)
    assert error.value.code == "SP026" and runs.files() == {}


def test_filler_is_for_compatibility_only(runs, write_jsonl):
    with pytest.raises(ConfigError, match="--pad-to-multiple-of is only for") as error:
        runs.preprocess(write_jsonl(ROWS[:1]), pad_to_multiple_of=16)
    assert error.value.code == "SP026"


def test_what_is_left_in_a_folder_by_a_set_is_no_data(runs, write_jsonl):
    runs.preprocess(write_jsonl(ROWS[:1]))
    write_jsonl([{"text": "A review."}], "reviews_rejects.jsonl").rename(runs.folder / "reviews_rejects.jsonl")
    assert [path.name for path in resolve_inputs([runs.folder])] == ["reviews_rejects.jsonl"]
