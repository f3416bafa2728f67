"""``seqpack pack`` on the command line: a set, or raw files."""

from __future__ import annotations

import json
import shlex

import pytest


def test_raw_rows_to_groups_to_packs(cli, alpaca_file, tokenizer_dir, tmp_path):
    path = tmp_path / "groups.jsonl"
    flags = ("--tokenizer", tokenizer_dir, "--prompt-type", "qwen")
    outcome = cli("pack", alpaca_file, *flags, "--seq-length", 256, "-o", path)
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[:4] == ["seqpack", "preprocess", str(path), "--pregrouped"]
    made = cli(*words[1:-1], tmp_path / "set", "--json").json
    assert made["rows"] == len(path.read_text().splitlines()) and made["strategy"] == "pregrouped"
    again = cli("pack", alpaca_file, *flags, "--seq-length", 256, "-o", path, "--overwrite", "--json").json
    assert again["groups"]["rows"] == made["rows"] and again["rows"] == 30
    assert "wrote" in outcome.out and json.loads(path.read_text().splitlines()[0])


def test_the_rejects_of_groups_are_no_data(cli, alpaca_file, tokenizer_dir, tmp_path):
    folder = tmp_path / "data"
    flags = ("--tokenizer", tokenizer_dir, "--seq-length", 256)
    assert cli("pack", alpaca_file, *flags, "-o", folder / "groups.jsonl").code == 0
    outcome = cli("preprocess", folder, "--pregrouped", *flags, "--neat-pack", "-o", tmp_path / "set", "--json")
    assert outcome.code == 0 and outcome.json["samples"] == 30, outcome.err


@pytest.mark.parametrize(
    "flags", [("--neat-pack",), ("--emit", "pai")],
)  # fmt: skip
def test_what_raw_rows_have_no_use_for(cli, alpaca_file, tokenizer_dir, flags, tmp_path):
    common = ("--tokenizer", tokenizer_dir, "--seq-length", 256, "-o", tmp_path / "g.jsonl")
    outcome = cli("pack", alpaca_file, *common, *flags)
    assert outcome.code == 2 and "SP028" in outcome.err and "--pregrouped" in outcome.err


@pytest.mark.parametrize("flags", [("--tokenizer", "x"), ("--append-eod",), ("--workers", 2), ("--pregrouped",)])
def test_what_a_set_has_no_use_for(cli, packed, flags, tmp_path):
    outcome = cli("pack", packed, "--seq-length", 256, "-o", tmp_path / "p" / "again", *flags)
    assert outcome.code == 2 and f"{flags[0]} would do nothing" in outcome.err


def test_neither_a_set_nor_a_file(cli, tmp_path):
    outcome = cli("pack", tmp_path / "nothing", "--seq-length", 256, "-o", tmp_path / "x")
    assert outcome.code == 3 and "SP106" in outcome.err and "neither a set" in outcome.err


def test_a_missing_tokenizer(cli, alpaca_file, tmp_path):
    outcome = cli("pack", alpaca_file, "--seq-length", 256, "-o", tmp_path / "x.jsonl")
    assert outcome.code == 2 and "--tokenizer is missing" in outcome.err
