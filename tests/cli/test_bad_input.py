"""Each kind of bad input: the sentence that says what to do, the exit code, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def preprocess(cli, tokenizer_dir, tmp_path):
    """Run ``seqpack preprocess`` on the given lines or path and check that a failure changes no file."""

    def call(data, *flags):
        if isinstance(data, list):
            path = tmp_path / "data.jsonl"
            path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in data))
            data = path
        before = snapshot(tmp_path / "out")
        outcome = cli("preprocess", data, "--tokenizer", tokenizer_dir, "-o", tmp_path / "out" / "x", *flags)
        if outcome.code:
            assert snapshot(tmp_path / "out") == before
        return outcome

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, which need not exist."""
    return {path.name: path.read_bytes() for path in folder.glob("*")}


ROW = {"instruction": "Say hi.", "input": "", "output": "hi"}


def check(outcome, code: int, diagnostic: str, *phrases: str) -> None:
    assert outcome.code == code, outcome.err
    assert f"error[{diagnostic}]" in outcome.err
    for phrase in phrases:
        assert phrase in outcome.err


def test_missing_file(preprocess, tmp_path):
    check(preprocess(tmp_path / "none.jsonl"), 3, "SP101", "none.jsonl", "--input")


def test_unknown_kind_of_file(preprocess, tmp_path):
    (tmp_path / "x.docx").write_text("")
    check(preprocess(tmp_path / "x.docx"), 2, "SP009", "x.docx", ".jsonl")


def test_folder_without_data(preprocess, tmp_path):
    (tmp_path / "empty").mkdir()
    check(preprocess(tmp_path / "empty"), 3, "SP101", "empty", ".jsonl")


def test_broken_json_names_the_line(preprocess, tmp_path):
    check(preprocess([ROW, ROW, '{"instruction": "cut o\n', ROW]), 3, "SP103", "data.jsonl:3", "not valid JSON")


def test_invalid_utf8_names_the_line(preprocess, tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"instruction": "caf\xe9", "output": "x"}\n')
    check(preprocess(path), 3, "SP103", "latin.jsonl:2")


def test_missing_column_names_what_is_there(preprocess):
    row = {"question": "q", "answer": "a"}
    check(
        preprocess([row]), 3, "SP131", "data.jsonl:1", "no handler fits", "question, answer", "--map-keys", "sharegpt"
    )
    check(preprocess([row], "--handler", "alpaca"), 3, "SP110", "data.jsonl:1", "question, answer", "--map-keys")


def test_a_flag_the_handler_does_not_use(preprocess):
    check(preprocess([ROW], "--handler", "alpaca", "--json-keys", "text"), 2, "SP020", "does not use --json-keys")
    check(preprocess([ROW], "--dataset-dir", "."), 2, "SP020", "does not use --dataset-dir")


def test_empty_file(preprocess):
    check(preprocess([]), 3, "SP109", "no rows")


def test_no_usable_row(preprocess):
    check(preprocess([{**ROW, "output": ""}] * 3), 3, "SP109", "none of 3 rows", "empty 'output'")


def test_too_many_rows_left_out(preprocess):
    check(preprocess([ROW, {**ROW, "output": ""}]), 4, "SP102", "50.0%", "--max-drop")
    assert preprocess([ROW, {**ROW, "output": ""}], "--max-drop", 0.5).code == 0


@pytest.mark.parametrize(
    ("flag", "value", "hint"),
    [
        ("--handler", "AlpacaStyleInstructonHandler", "AlpacaStyleInstructionHandler"),
        ("--prompt-type", "quen", "'qwen'"),
        ("--strategy", "bestfit", "'best-fit'"),
    ],
)
def test_unknown_component(preprocess, flag, value, hint):
    check(preprocess([ROW], flag, value), 2, "SP002", value, f"did you mean {hint}" if "'" in hint else hint)


def test_unknown_flag(preprocess):
    check(preprocess([ROW], "--neat-pak"), 2, "SP001", "--neat-pak", "did you mean '--neat-pack'")


def test_seq_length_too_small_for_any_sample(preprocess):
    check(preprocess([ROW], "--neat-pack", "--seq-length", 8), 3, "SP109", "no room", "raise --seq-length")


def test_packing_without_length(preprocess):
    check(preprocess([ROW], "--pack"), 2, "SP008", "--seq-length")


def test_overlong_sample_stops_if_asked(preprocess):
    long = {**ROW, "output": "word " * 200}
    flags = ("--neat-pack", "--seq-length", 64, "--on-overlong")
    check(preprocess([ROW, long], *flags, "error"), 3, "SP108", "data.jsonl:2", "--on-overlong truncate | split | drop")


def test_map_keys(preprocess):
    check(preprocess([ROW], "--map-keys", "{prompt: x}"), 2, "SP010", "not valid JSON")
    check(preprocess([ROW], "--map-keys", '{"promt": "instruction"}'), 2, "SP010", "did you mean 'prompt'")
    check(preprocess([ROW], "--map-keys", '{"response": null}'), 2, "SP010", "switched off")


def test_existing_output(preprocess, tmp_path):
    assert preprocess([ROW]).code == 0
    before = snapshot(tmp_path / "out")
    other = {**ROW, "output": "bye"}
    check(preprocess([other]), 2, "SP301", "has changed", "--overwrite")
    assert preprocess([other], "--overwrite").code == 0
    after = snapshot(tmp_path / "out")
    assert after.keys() == before.keys()
    assert after != before


def test_tokenizer_directory_without_tokenizer(cli, tmp_path, alpaca_file):
    outcome = cli("stats", alpaca_file, "--tokenizer", tmp_path)
    check(outcome, 3, "SP104", "has no tokenizer.json")
    check(cli("stats", alpaca_file, "--tokenizer", tmp_path / "none"), 3, "SP104", "no tokenizer directory")


def test_broken_tokenizer(cli, tmp_path, alpaca_file):
    (tmp_path / "tokenizer.json").write_text("{}")
    check(cli("stats", alpaca_file, "--tokenizer", tmp_path), 3, "SP104", "cannot be loaded")


def test_data_set_without_manifest(cli, packed):
    Path(f"{packed}_packed_manifest.json").unlink()
    check(cli("show", packed), 3, "SP106", "unfinished")


def test_truncated_data_set(cli, packed):
    path = Path(f"{packed}_packed_labels_document.bin")
    path.write_bytes(path.read_bytes()[:-4])
    check(cli("show", packed), 3, "SP105", path.name)


def test_pack_number_out_of_range(cli, packed):
    check(cli("show", packed, "--pack", 10_000), 2, "SP112", "packs 0 to")


def test_repack_that_does_not_fit(cli, packed, tmp_path):
    arguments = ("pack", packed, "--seq-length", 64, "-o", tmp_path / "small")
    check(cli(*arguments), 3, "SP108", "samples do not fit", "--on-overlong drop")
    check(cli(*arguments, "--on-overlong", "drop"), 4, "SP102", "--max-drop")
    assert cli(*arguments, "--on-overlong", "drop", "--max-drop", 1).code == 0


def test_training_apart_on_data_packed_without_boundaries(cli, packed, tmp_path):
    prefix = tmp_path / "causal"
    assert cli("pack", packed, "--seq-length", 256, "-o", prefix).code == 0
    for flag in ("--neat-pack", "--reset-position-ids", "--reset-attention-mask"):
        outcome = cli("train", prefix, "--model", "tiny:qwen2", "--save", tmp_path / "run", flag)
        check(outcome, 2, "SP203", flag, "seqpack pack --neat-pack")
    assert not (tmp_path / "run").exists()


def test_training_with_the_tokenizer_of_another_model(cli, packed, tokenizer_dir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    value = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    value["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(value))
    outcome = cli("train", packed, "--model", "tiny:qwen2", "--tokenizer", other, "--save", tmp_path / "run")
    check(outcome, 2, "SP302", str(other), "preprocess the data with the tokenizer of the model")


def test_training_on_what_is_not_a_data_set(cli, tmp_path):
    check(cli("train", tmp_path / "none", "--model", "tiny:qwen2", "--save", tmp_path / "run"), 3, "SP106", "none")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--strategy", "greedy"), "nothing is packed"),
        (("--on-overlong", "drop"), "without --seq-length"),
        (("--split-sft", "--seq-length", 64), "no sample is split"),
        (("--compat", "mindspeed", "--neat-pack", "--seq-length", 64, "--strategy", "greedy"), "by its own rules"),
        (("--handler", "text", "--json-keys", "output", "--train-on", "last"), "pretraining text"),
        (("--handler", "text", "--json-keys", "output", "--prompt-type", "llama3"), "pretraining text"),
    ],
)
def test_flag_that_would_do_nothing(preprocess, flags, reason):
    check(preprocess([ROW], *flags), 2, "SP028", "would do nothing", reason)
