"""Trained tokens against raw rows: right sets pass, and labels in the wrong place are named by file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpack.core.check_result import CheckResult
from seqpack.core.types import IGNORE_INDEX
from seqpack.io.packed import DataSetPaths, PackedDataset
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.pipeline.preprocess import preprocess
from seqpack.pipeline.source_check import check_sources

from ..conftest import GOLDEN, WriteJsonl

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue is a colour."},
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": "The sum is 5.\n\nAnything  else?"},
    {
        "instruction": "Say nothing new.",
        "input": "",
        "output": "Über <think>no</think> ¿qué?",
        "history": [["Hi", "Ho"]],
    },
]
MakeSet = Callable[..., PackedDataset]


@pytest.fixture
def make_set(write_jsonl: WriteJsonl, tokenizer_dir: Path, tmp_path: Path) -> MakeSet:
    def make(
        rows: list[Any] | Path = ROWS, *, seq_length: int = 128, pregrouped: bool = False, **text: object
    ) -> PackedDataset:
        data = rows if isinstance(rows, Path) else write_jsonl(rows)
        preprocess(
            InputOptions(input=[data], pregrouped=pregrouped),
            TextOptions(**({"tokenizer": tokenizer_dir, "prompt_type": "qwen"} | text)),  # type: ignore[arg-type]
            LengthOptions(seq_length=seq_length, max_drop=1.0),
            PackOptions(neat_pack=True),
            WriteOptions(output_prefix=tmp_path / "set"),
        )
        return PackedDataset.open(tmp_path / "set")

    return make


def with_labels(dataset: PackedDataset, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> CheckResult:
    """The check on the same set with other labels: ``change(input_ids, labels)`` of all tokens."""
    path = DataSetPaths.of(dataset.paths.prefix).column("labels").with_suffix(".bin")
    labels = np.fromfile(path, np.int32)
    change(np.asarray(dataset.tokens), labels).astype(np.int32).tofile(path)
    return check_sources(PackedDataset.open(dataset.paths.prefix), most=1000)


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"prompt_type": "llama3"},
        {"prompt_type": "alpaca"},
        {"prompt_type": "qwen3"},
        {"prompt_type": "qwen3", "enable_thinking": "true"},
        {"prompt_type": "default"},
        {"train_on": "last"},
        {"train_on": "all"},
    ],
)
def test_a_right_set_passes(make_set: MakeSet, text: dict[str, object], tokenizer_dir: Path) -> None:
    if text.get("prompt_type") == "llama3":
        text = {**text, "tokenizer": tokenizer_dir.parent / "llama3"}
    result = check_sources(make_set(**text), most=1000)
    assert result.outcome == "passed", result.seen
    assert "3 samples" in result.seen


def test_golden_rows_pass_also_where_they_are_cut(make_set: MakeSet) -> None:
    dataset = make_set(GOLDEN / "inputs" / "alpaca_en_200.jsonl", seq_length=200)
    assert dataset.manifest.ledger.truncated.samples > 20
    result = check_sources(dataset, most=1000)
    assert result.outcome == "passed", result.seen
    assert "200 samples" in result.seen


def test_replies_that_say_nothing_pass(make_set: MakeSet) -> None:
    replies = (" \n", "<x>", "<think></think>")
    found = check_sources(make_set([{"instruction": "Hi", "output": reply} for reply in replies]), most=100)
    assert (found.outcome, found.seen.split(" samples")[0].split()[-1]) == ("passed", "3")


def test_rows_that_are_lists_pass(make_set: MakeSet) -> None:
    found = check_sources(make_set([[ROWS[0], 5, {"instruction": "No reply."}, ROWS[1]]], pregrouped=True), most=100)
    assert found.outcome == "passed"


def test_no_more_than_asked(make_set: MakeSet) -> None:
    assert "2 samples" in check_sources(make_set(), most=2).seen


def shifted_right(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    trained = np.roll(labels != IGNORE_INDEX, 1)
    return np.where(trained, ids, IGNORE_INDEX)


def shifted_left(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    trained = np.roll(labels != IGNORE_INDEX, -3)
    return np.where(trained, ids, IGNORE_INDEX)


def questions_too(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return ids.copy()


def another_text(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where(labels == IGNORE_INDEX, labels, np.roll(labels, 2))


@pytest.mark.parametrize("change", [shifted_right, shifted_left, questions_too, another_text])
def test_labels_in_the_wrong_place_are_found(make_set: MakeSet, change: Callable[..., np.ndarray]) -> None:
    result = with_labels(make_set(), change)
    assert result.outcome == "failed", result.seen
    assert "data.jsonl:" in result.seen


def test_an_end_that_one_sample_lacks_is_found(make_set: MakeSet) -> None:
    def without_last_end(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        changed = labels.copy()
        changed[np.flatnonzero(labels != IGNORE_INDEX)[-1]] = IGNORE_INDEX
        return changed

    result = with_labels(make_set(), without_last_end)
    assert result.outcome == "failed"
    assert "no end token is trained on" in result.seen


def test_strange_text_in_a_cut_sample_is_found(make_set: MakeSet) -> None:
    long = [{"instruction": "Count.", "input": "", "output": " ".join(map(str, range(400)))}]
    dataset = make_set(long, seq_length=64)
    assert check_sources(dataset, most=10).outcome == "passed"
    result = with_labels(dataset, questions_too)
    assert result.outcome == "failed" and "is no part of a reply" in result.seen


def test_a_source_that_changed_is_not_compared(make_set: MakeSet, tmp_path: Path) -> None:
    dataset = make_set()
    data = tmp_path / "data.jsonl"
    os.utime(data, ns=(1, 1))
    assert check_sources(dataset, most=10).outcome == "passed"  # touched, and the same
    data.write_text("".join(json.dumps({**row, "output": "other"}) + "\n" for row in ROWS))
    result = check_sources(dataset, most=10)
    assert result.outcome == "skipped" and "have changed" in result.seen


def test_without_the_tokenizer_nothing_is_compared(make_set: MakeSet, tmp_path: Path, tokenizer_dir: Path) -> None:
    import shutil

    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    dataset = make_set(tokenizer=tmp_path / "tokenizer")
    shutil.rmtree(tmp_path / "tokenizer")
    assert check_sources(dataset, most=10).outcome == "skipped"
    assert check_sources(dataset, most=10, tokenizer_dir=tokenizer_dir).outcome == "passed"
