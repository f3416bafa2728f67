"""The commands on every kind of input: the same set from the same rows, and a word about all that was not read."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

FORMATS = Path(__file__).parents[1] / "golden" / "formats"
ALPACA = sorted(path.name for path in FORMATS.glob("alpaca*"))
COLUMNS = ("input_ids", "labels", "attention_mask")


@pytest.fixture
def preprocess(cli, tokenizer_dir, tmp_path):
    """``preprocess(data, "name", ...)`` -> outcome, and the bytes of the pairs of the set ``name``."""

    def call(data, name="x", *flags):
        prefix = tmp_path / "out" / name
        outcome = cli("preprocess", *data, "--tokenizer", tokenizer_dir, "-o", prefix, *flags)
        pairs = [Path(f"{prefix}_packed_{column}_document.bin") for column in COLUMNS]
        return outcome, [path.read_bytes() for path in pairs if path.exists()]

    return call


def test_every_kind_of_file_gives_the_same_set(preprocess):
    made = {name: preprocess([FORMATS / name], name)[1] for name in ALPACA}
    assert len(made) >= 12 and all(len(pairs) == 3 for pairs in made.values())
    assert [name for name, pairs in made.items() if pairs != made["alpaca.jsonl"]] == []


@pytest.mark.parametrize(
    ("rows", "flags", "column"),
    [
        ("sharegpt", (), "packed_labels"),
        ("text", ("--handler", "text", "--append-eod"), "text"),
    ],
)
def test_other_rows_are_the_same_in_every_kind_too(cli, tokenizer_dir, tmp_path, rows, flags, column):
    made = {}
    for file in sorted(FORMATS.glob(f"{rows}.*")):
        outcome = cli("preprocess", file, "--tokenizer", tokenizer_dir, "-o", tmp_path / file.name, *flags)
        assert outcome.code == 0, outcome.err
        made[file.name] = Path(f"{tmp_path / file.name}_{column}_document.bin").read_bytes()
    assert len(made) == {"sharegpt": 2, "text": 8}[rows] and set(made.values()) == {made[f"{rows}.jsonl"]}


def test_a_folder_of_many_kinds(preprocess, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ALPACA:
        shutil.copy(FORMATS / name, folder)
    shutil.copy(FORMATS / "README.md", folder)
    outcome, pairs = preprocess([folder], "x", "-v")
    assert outcome.code == 0, outcome.err
    assert pairs == [len(ALPACA) * bytes_ for bytes_ in preprocess([FORMATS / "alpaca.jsonl"], "one")[1]]
    assert f"read {len(ALPACA)} files: {folder / ALPACA[0]}, " in outcome.out
    assert f"warning[SP113]: not read: {folder / 'README.md'}" in outcome.err
    manifest = json.loads((tmp_path / "out" / "x_packed_manifest.json").read_text())
    assert list(manifest["inputs"]) == [str(folder / name) for name in ALPACA]


def test_a_pattern_and_a_file_twice(cli, tokenizer_dir):
    file = FORMATS / "alpaca.csv.gz"
    outcome = cli("stats", FORMATS / "alpaca.csv*", file, "--tokenizer", tokenizer_dir, "--json")
    assert outcome.code == 0, outcome.err
    assert [Path(name).name for name in outcome.json["files"]] == [
        "alpaca.csv",
        "alpaca.csv.gz",
        "alpaca.csv.zst",
        "alpaca.csv.gz",
    ]
    assert f"warning[SP114]: read more than once: {file}" in outcome.err


def test_one_file_is_not_worth_a_word(preprocess):
    outcome, _ = preprocess([FORMATS / "alpaca.csv"], "x", "-v")
    assert "files:" not in outcome.out and "SP113" not in outcome.err and "SP114" not in outcome.err


@pytest.mark.parametrize("name", ALPACA)
def test_a_damaged_file_in_the_middle_of_a_folder(preprocess, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in ("a.jsonl", "z.jsonl"):
        shutil.copy(FORMATS / "alpaca.jsonl", folder / place)
    raw = (FORMATS / name).read_bytes()
    # a text may be whole when it is cut; half a quoted value or half an object is not
    cut = raw.rindex(b'"') if name == "alpaca.csv" else len(raw) * 3 // 4
    (folder / name).write_bytes(raw[:cut])
    outcome, pairs = preprocess([folder])
    assert outcome.code == 3, outcome.err
    assert "error[SP103]" in outcome.err and str(folder / name) in outcome.err
    assert pairs == [] and not list((tmp_path / "out").glob("*"))


def test_mended_rows_are_counted_and_named(preprocess, tmp_path):
    data = tmp_path / "data.jsonl"
    row = '{"instruction": "Say hi.", "input": "", "output": "hi%s"}\n'
    data.write_text(row % "" + row % r"\ud83d" + row % r"\ud83d\ude00")
    outcome, _ = preprocess([data])
    assert outcome.code == 0, outcome.err
    assert "1 with text that is not Unicode, mended" in outcome.out
    assert "warning[SP115]: 1 row had text that is not Unicode" in outcome.err
    rejects = (tmp_path / "out" / "x_packed_rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in rejects] == [f"{data}:2"]


def test_stats_counts_mended_rows(cli, tokenizer_dir, tmp_path):
    data = tmp_path / "data.json"
    data.write_text(r'[{"instruction": "Say hi.", "output": "hi\udc00"}]')
    outcome = cli("stats", data, "--tokenizer", tokenizer_dir)
    assert outcome.code == 0, outcome.err
    assert "warning[SP115]: text that is not Unicode in 1 row" in outcome.err


def test_a_name_of_the_hub_without_its_package(preprocess, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    outcome, _ = preprocess(["tatsu-lab/alpaca"])
    assert outcome.code == 5
    assert "error[SP502]: there is no file or folder tatsu-lab/alpaca" in outcome.err
    assert "seqpack-toolkit[hub]" in outcome.err
