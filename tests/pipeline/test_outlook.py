"""``preprocess --dry-run`` through the command line: it checks, says and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqpack.cli.app import run

ROWS = [{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "input": "d", "output": "e"}]


@pytest.fixture
def call(tmp_path, tokenizer_dir, capfd, monkeypatch):
    """``call(arguments)``: exit code, the JSON object, and what was said on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, dict, str]:
        words = ["preprocess", *arguments, "--dry-run", "--json"]
        if "--tokenizer" not in arguments:
            words += ["--tokenizer", str(tokenizer_dir)]
        code = run([*words, "-o", "out/mine"])
        out, err = capfd.readouterr()
        return code, json.loads(out), err

    return call


def test_what_would_happen(call, write_jsonl, tmp_path):
    file = write_jsonl(ROWS)
    before = sorted(tmp_path.rglob("*"))
    code, outlook, _ = call(str(file), "--seq-length", "64", "--neat-pack")
    assert code == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert outlook["files"] == [{"path": str(file), "bytes": file.stat().st_size}]
    assert outlook["handler"] == "AlpacaStyleInstructionHandler" and "'instruction'" in outlook["handler_reason"]
    assert (outlook["strategy"], outlook["mask"], outlook["template"]) == ("balanced", "block-causal", "qwen")
    assert "out/mine_packed_input_ids_document.bin" in outlook["outputs"]
    assert outlook["warnings"] == []


def test_what_is_not_there_is_a_warning(call):
    code, outlook, err = call("nowhere.jsonl", "--handler", "sharegpt", "--tokenizer", "no/tokenizer")
    assert code == 0
    assert [warning.endswith("a real run would stop there") for warning in outlook["warnings"]] == [True, True]
    assert outlook["handler"] == "SharegptStyleInstructionHandler"
    assert err.count("SP135") == 2


def test_a_catalogue_that_is_not_there_is_a_warning(call):
    code, outlook, _ = call("one,two", "--handler", "llamafactory", "--dataset-dir", "nowhere")
    assert code == 0
    assert "dataset_info.json" in outlook["warnings"][0]


def test_compatibility_is_checked_too(call, write_jsonl):
    file = str(write_jsonl(ROWS))
    code, outlook, _ = call(file, "--compat", "mindspeed", "--prompt-type", "glm4")
    assert code == 0
    assert any("<|user|> (3000)" in note for note in outlook["notes"])
    assert call(file, "--compat", "mindspeed", "--prompt-type", "chat-template")[0] == 2


def test_nothing_is_asked_of_the_hub(call):
    code, outlook, _ = call("org/name")
    assert code == 0
    assert "was not tried" in outlook["warnings"][0]
    assert outlook["kind"] == "undecided" and outlook["outputs"] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--handler", "alpacca"], "SP002"),
        (["--prompt-type", "qwenn", "--tokenizer", "no/tokenizer"], "SP002"),
        (["--strategy", "bets-fit", "--pack", "--seq-length", "9"], "SP002"),
        (["--pack"], "SP008"),
        (["--strategy", "greedy"], "SP028"),
        (["--seq-lenght", "9"], "SP001"),
        (["--enable-thinking", "true", "--tokenizer", "no/tokenizer"], "SP019"),
        (["--handler", "text", "--pack", "--seq-length", "9"], "SP133"),
        (["--handler", "text", "--map-keys", "{}", "--prompt-type", "llama3"], "SP028"),
        (["--split-sentences"], "SP029"),
        (["--json-keys", "a", "--handler", "alpaca"], "SP020"),
    ],
)
def test_what_is_wrong_is_an_error_all_the_same(call, arguments, code):
    exit_code, answer, _ = call("nowhere.jsonl", *arguments)
    assert exit_code == 2
    assert answer["error"]["code"] == code


def test_rows_that_are_there_are_read(call, write_jsonl):
    file = write_jsonl(ROWS)
    code, answer, _ = call(str(file), "--map-keys", '{"response": "answer"}', "--handler", "alpaca")
    assert (code, answer["error"]["code"]) == (3, "SP110")


def test_a_set_that_exists_is_not_replaced(call, write_jsonl, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine_packed_manifest.json").touch()
    code, answer, _ = call(str(write_jsonl(ROWS)))
    assert (code, answer["error"]["code"]) == (2, "SP004")
    assert call(str(write_jsonl(ROWS)), "--overwrite")[0] == 0


def test_a_lone_backslash_is_left_out(call, write_jsonl):
    code, _, err = call(str(write_jsonl(ROWS)), "\\")
    assert code == 0
    assert "lone backslash" in err


def test_the_first_rows_only(runs, write_jsonl):
    files = [write_jsonl(ROWS * 3, name) for name in ("a.jsonl", "b.jsonl")]
    result = runs.preprocess(files, max_samples=7)
    assert result.ledger.rows == 7
    assert result.manifest.recipe["max_samples"] == 7
    assert runs.stats(files[0], max_samples=2).ledger.rows == 2


def test_a_relative_output_needs_no_folder(call, write_jsonl):
    assert not Path("out").exists()
    assert call(str(write_jsonl(ROWS)))[0] == 0
    assert not Path("out").exists()
