"""``seqpack show`` on the command line: each question has a screen and an object."""

from __future__ import annotations

import pytest


def test_every_question_has_an_object(cli, packed, alpaca_file):
    assert cli("show", packed, "--json").json["row"] == 0
    traced = cli("show", packed, "--sample", "alpaca.jsonl:3", "--tokens", "--json").json
    assert traced["key"] == f"{alpaca_file}:3" and traced["places"][0]["tokens"]
    found = cli("show", packed, "--find", "number 3.", "--json").json
    assert [match["key"] for match in found["matches"]] == [f"{alpaca_file}:4"]
    assert found["schema_version"] == 1 and found["num_samples"] == 1


def test_screens(cli, packed):
    assert "in 1 pack of" in cli("show", packed, "--sample", "alpaca.jsonl:3").out
    assert "'number 3.' is in 1 sample of 1 pack" in cli("show", packed, "--find", "number 3.").out
    assert "special, trained" in cli("show", packed, "--tokens", "--no-mask").out


def test_the_mask_as_a_file(cli, packed, tmp_path):
    outcome = cli("show", packed, "--pack", 1, "--mask-png", tmp_path / "mask.png")
    assert outcome.code == 0 and "wrote" in outcome.out
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--pack", 1, "--find", "x"), "SP001", "--pack and --find ask for different things"),
        (("--find", ""), "SP001", "empty text"),
        (("--find", "x", "--tokens"), "SP028", "--tokens would do nothing"),
        (("--sample", "a:1", "--mask-png", "m.png"), "SP028", "--mask-png would do nothing"),
        (("--limit", 5), "SP028", "--limit would do nothing"),
        (("--mask-png", "m.jpg"), "SP001", ".png"),
    ],
)
def test_questions_that_contradict_each_other(cli, packed, flags, code, said):
    outcome = cli("show", packed, *flags)
    assert outcome.code == 2 and code in outcome.err and said in outcome.err


def test_another_tokenizer_is_refused(cli, packed, tmp_path, tokenizer_dir):
    text = (tokenizer_dir / "tokenizer.json").read_text().replace("<|im_end|>", "<|im_stop|>")
    (tmp_path / "tokenizer.json").write_text(text)
    outcome = cli("show", packed, "--tokenizer", tmp_path)
    assert outcome.code == 2 and "SP302" in outcome.err


@pytest.fixture
def documents(cli, tmp_path, tokenizer_dir):
    file = tmp_path / "docs.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert cli("preprocess", file, "--handler", "text", "--tokenizer", tokenizer_dir, "-o", tmp_path / "docs").code == 0
    return tmp_path / "docs"


def test_documents(cli, documents):
    assert "document 1 of 2" in cli("show", documents, "--pack", 1, "--tokens").out
    assert cli("show", documents, "--json").json["documents"][0]["text"] == "one"
    for flags in (("--sample", "docs.jsonl:1"), ("--find", "one"), ("--mask-png", "m.png")):
        outcome = cli("show", documents, *flags)
        assert outcome.code == 2 and "SP132" in outcome.err and "--pack N" in outcome.err
