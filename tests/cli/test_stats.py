"""``seqpack stats`` on the command line: raw files or a set, and what goes with which."""

from __future__ import annotations

import json
import shlex

import pytest

from seqpack.io.packed import PackedDataset


def test_what_it_advises_can_be_run(cli, alpaca_file, tokenizer_dir, tmp_path):
    flags = ("--map-keys", '{"query": null}', "--prompt-type", "qwen", "--append-eod", "--train-on", "all")
    outcome = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir, *flags)
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[:3] == ["seqpack", "preprocess", str(alpaca_file)] and words[-2:] == ["-o", "packs/alpaca"]
    made = cli(*words[1:-1], tmp_path / "set", "--json").json
    found = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir, *flags, "--json").json
    (layout,) = [each for each in found["layouts"] if each["name"] == f"pack, {made['strategy']}"]
    assert (layout["rows"], found["seq_length"]) == (made["rows"], made["seq_length"])


def test_a_set_is_measured_by_its_prefix(cli, packed):
    outcome = cli("stats", packed)
    assert outcome.code == 0 and "packed set · 30 samples" in outcome.out and "next: seqpack show" in outcome.out
    found = cli("stats", packed, "--seq-length", 64, "--json")
    assert found.json["seq_length"] == 64 and found.json["source"] == "packed set"
    longer = sum(length > 64 for length in PackedDataset.open(packed).pieces.length.tolist())
    assert (
        f"[SP108]: {longer} samples would not fit --seq-length 64" in found.err and longer == found.json["num_longer"]
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--tokenizer", "x"), ("--handler", "alpaca"), ("--map-keys", "{}"), ("--json-keys", "a"), ("--sample", "1%"),
        ("--append-eod",), ("--on-overlong", "drop"), ("--workers", "1"), ("--characters",),
    ],
)  # fmt: skip
def test_what_a_set_has_no_use_for(cli, packed, flags):
    outcome = cli("stats", packed, *flags)
    assert outcome.code == 2 and "SP028" in outcome.err and f"{flags[0]} would do nothing" in outcome.err


def test_raw_files_need_a_tokenizer(cli, alpaca_file):
    outcome = cli("stats", alpaca_file)
    assert outcome.code == 2 and "--tokenizer is missing" in outcome.err


def test_one_name_for_a_set_and_a_folder(cli, packed):
    packed.mkdir()
    outcome = cli("stats", packed)
    assert outcome.code == 2 and "is a folder, and a set of that name" in outcome.err
    assert cli("stats", f"{packed}_packed").code == 0, "as the message says"


def test_a_set_among_files(cli, packed, alpaca_file):
    outcome = cli("stats", packed, alpaca_file)
    assert outcome.code == 2 and "beside other input" in outcome.err


@pytest.mark.parametrize("length", ["autto", "1", "0", "-5", "1.5", ""])
def test_lengths_that_are_none(cli, alpaca_file, tokenizer_dir, length):
    outcome = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir, f"--seq-length={length}")
    assert outcome.code == 2 and "is not a length" in outcome.err


def test_the_length_may_be_found(cli, alpaca_file, tokenizer_dir):
    found = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir, "--seq-length", "auto", "--json").json
    assert found["seq_length_was_given"] is False


def test_characters_need_no_tokenizer(cli, alpaca_file):
    outcome = cli("stats", alpaca_file, "--characters")
    assert outcome.code == 0 and "characters of instruction + input + output" in outcome.out
    assert cli("stats", alpaca_file, "--characters", "--json").json["characters"]["describe"]["count"] == 30
    refused = cli("stats", alpaca_file, "--characters", "--seq-length", 8)
    assert refused.code == 2 and "--seq-length would do nothing" in refused.err


def test_a_part_and_a_picture(cli, alpaca_file, tokenizer_dir, tmp_path):
    file = tmp_path / "a.svg"
    outcome = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir, "--sample", "50%", "--plot", file)
    assert outcome.code == 0 and file.exists() and f"wrote {file}" in outcome.out and "±" in outcome.out


def test_data_sets_of_a_catalogue_are_no_sets_of_ours(cli, alpaca_file, tokenizer_dir, tmp_path):
    info = {"mine": {"file_name": alpaca_file.name}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    names = ("mine", "--dataset-dir", tmp_path, "--handler", "LlamaFactoryInstructionHandler")
    outcome = cli("stats", *names, "--tokenizer", tokenizer_dir, "--json")
    assert outcome.code == 0 and outcome.json["describe"]["count"] == 30, outcome.err
    path = tmp_path / "g.jsonl"
    grouped = cli("pack", *names, "--tokenizer", tokenizer_dir, "--seq-length", 256, "-o", path)
    assert grouped.code == 0 and "30 rows in" in grouped.out, grouped.err
    (line,) = [line for line in grouped.out.splitlines() if line.startswith("next: ")]
    assert cli(*shlex.split(line)[2:-1], tmp_path / "set").code == 0, "rows of a file need no catalogue"


def test_losses_are_summed_and_the_largest_named(cli, alpaca_file, tokenizer_dir):
    flags = ("--tokenizer", tokenizer_dir, "--seq-length", 64)
    for choice, said in (("truncate", "longer than --seq-length 64"), ("drop", "would be left out (longer than")):
        outcome = cli("stats", alpaca_file, *flags, "--on-overlong", choice, "--json")
        ledger, longest = outcome.json["ledger"], outcome.json["longest"]
        lost = ledger["truncated"] if choice == "truncate" else ledger["dropped"]["longer than --seq-length"]
        (line,) = [line for line in outcome.err.splitlines() if said in line]
        assert f"{lost['samples']} samples" in line and f"{lost['tokens']:,} tokens" in line
        assert f"most of {longest[0][0]} ({longest[0][1]:,}), {longest[1][0]}" in line


def test_a_picture_that_cannot_be_drawn_is_known_before_any_work(cli, alpaca_file, tmp_path):
    for name, code in (("a.pdf", "SP001"), ("none/a.svg", "SP503")):
        outcome = cli("stats", alpaca_file, "--tokenizer", tmp_path / "no tokenizer", "--plot", tmp_path / name)
        assert code in outcome.err and outcome.code in (2, 5)
