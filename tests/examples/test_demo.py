"""The demo: its data and tokenizer are what they promise, and a short run of it goes the whole road."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from transformers import PreTrainedTokenizerFast

from seqpack.cli.app import run
from seqpack.commands.demo import MARKER, Numbers, Recipe, Steps, command_line, measure, pack_to_show, run_demo
from seqpack.core.errors import ConfigError
from seqpack.options.demo import DemoOptions
from seqpack.options.output import OutputOptions
from seqpack.report.console import Console

ROOT = Path(__file__).parents[2]
SCRIPTS, README = ROOT / "examples" / "demo", ROOT / "README.md"
ROWS = 2000
SHORT = Recipe(rows=300, train_iters=6, padded_iters=4)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_data, make_tokenizer = load("make_data"), load("make_tokenizer")


def num_characters(row) -> int:
    return sum(len(text) for turn in row.history for text in turn) + len(row.instruction + row.input + row.output)


@pytest.fixture(scope="module")
def rows():
    return make_data.make_rows(ROWS, seed=1)


@pytest.fixture(scope="module")
def tokenizer_folder(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = (text for row in rows[0] for text in make_tokenizer.row_texts(json.loads(row.to_json())))
    make_tokenizer.save_tokenizer(make_tokenizer.train_tokenizer(texts, 1024), folder)
    return folder


def test_the_same_seed_makes_the_same_rows(rows):
    assert make_data.make_rows(ROWS, seed=1) == rows
    assert make_data.make_rows(ROWS, seed=2) != rows


def test_the_files_are_those_rows(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--output", str(tmp_path), "--rows", str(ROWS), "--seed", "1"])
    make_data.main()
    written = [(tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("train", "heldout")]
    assert written == [[row.to_json() for row in part] for part in rows]


def test_no_held_out_prompt_is_trained_on(rows):
    train, heldout = rows
    assert len(train) == ROWS and len(heldout) == ROWS * make_data.HELDOUT_SHARE
    prompts = [row.prompt for row in (*train, *heldout)]
    assert len(set(prompts)) == len(prompts)


def test_every_task_is_in_both_parts(rows):
    for part in rows:
        assert {row.task for row in part} == {task.name for task in make_data.TASKS}


def test_lengths_spread_over_an_order_of_magnitude(rows):
    lengths = sorted(map(num_characters, rows[0]))
    assert lengths[int(0.99 * ROWS)] > 10 * lengths[int(0.01 * ROWS)]


def test_some_rows_have_several_turns(rows):
    share = sum(bool(row.history) for row in rows[0]) / ROWS
    assert 0.05 < share < 0.3
    row = next(row for row in rows[0] if row.history)
    assert all(len(turn) == 2 for turn in json.loads(row.to_json())["history"])


@pytest.mark.parametrize("task", make_data.TASKS, ids=lambda task: f"{task.name}-{task.weight}")
def test_a_task_makes_whole_rows_for_any_seed(task):
    for seed in range(200):
        row = task.make(Random(seed))
        assert row.instruction and row.output and row.task == task.name


def test_answers_are_right():
    for seed in range(50):
        row = make_data.make_sort(Random(seed))
        assert row.output.split(", ") == sorted(row.input.split(", "))
        row = make_data.make_reverse(Random(seed))
        assert row.output.split(", ") == row.input.split(", ")[::-1]
        row = make_data.make_count(Random(seed))
        word, times = row.instruction.split()[-2], row.output.split()[2]
        assert row.input.split(", ").count(word) == int(times)
        row = make_data.make_city(Random(seed))
        assert row.output.removesuffix(".").split()[-1] in row.input


def test_the_tokenizer_loads_and_gives_texts_back(rows, tokenizer_folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer.encode("<|im_start|><|im_end|><|endoftext|>")) == 3
    for row in islice(rows[1], 50):
        assert tokenizer.decode(tokenizer.encode(row.output)) == row.output


def test_a_few_rows_are_too_long_for_a_pack(rows, tokenizer_folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    lengths = [len(tokenizer(row.instruction + row.input + row.output)["input_ids"]) for row in rows[0]]
    too_long = sum(length > Recipe().seq_length for length in lengths)
    assert 0 < too_long < 0.02 * ROWS


def numbers(**changed) -> Numbers:
    step = {"num_tokens": 90, "num_padding": 10, "num_targets": 30, "seconds": 0.5}
    packed = [{**step, "loss": loss} for loss in (6.0, 6.0, 6.0, 6.0, 6.0, *[2.0] * 20)]
    answers = {"task": "city", "rows": 10, "exact_match": 0.9}
    values = {"packed": packed, "padded": packed[:4], "trip": {"tensors": 26, "identical": True}, **changed}
    return measure(answers=answers, seconds=1.0, **values)


def test_numbers_of_the_table():
    found = numbers()
    assert (found.loss_start, found.loss_end) == (6.0, 2.0)
    assert found.fill_packed == 0.9 and found.tokens_per_second_padded == 180.0
    assert found.failures() == []


def test_broken_promises_are_named():
    assert "weights differ" in numbers(trip={"tensors": 26, "identical": False}).failures()[0]
    flat = [{"num_tokens": 90, "num_padding": 10, "num_targets": 30, "seconds": 0.5, "loss": 6.0}] * 9
    assert "not by more than half" in numbers(packed=flat).failures()[0]


def test_a_command_line_can_be_copied():
    assert command_line(["seqpack", "show", "my packs/a", "--pack", "2"]) == "seqpack show 'my packs/a' --pack 2"
    words = ["seqpack", "train", "x" * 80, "--save", "y" * 40, "--lr", "0.1"]
    assert command_line(words).replace(" \\\n   ", "").split() == words
    assert command_line(words).count("\n") == 1


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.write_text("words")
    with pytest.raises(ConfigError, match="not made by the demo"):
        run_demo(DemoOptions(output=tmp_path), OutputOptions(), SHORT)
    with pytest.raises(ConfigError, match="is a file"):
        run_demo(DemoOptions(output=precious), OutputOptions(), SHORT)
    assert precious.read_text() == "words"


def test_a_failing_step_stops_the_demo_with_its_exit_code(tmp_path, capfd):
    steps = Steps(Console(OutputOptions(json=True)), OutputOptions(json=True))
    with pytest.raises(SystemExit) as stopped:
        steps.seqpack("Look at nothing", "show", tmp_path / "nothing")
    printed = capfd.readouterr()
    assert stopped.value.code == 3
    assert json.loads(printed.out)["exit_code"] == 3
    assert "exit code 3" in printed.err


@pytest.mark.slow
def test_the_screens_in_the_readme_are_those_of_the_demo(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "119")
    recipe, seed = Recipe(), DemoOptions().seed
    for script, words in (
        (make_data, ["--output", "data", "--rows", str(recipe.rows), "--seed", str(seed)]),
        (make_tokenizer, ["data/train.jsonl", "--output", "tokenizer"]),
    ):
        monkeypatch.setattr(sys, "argv", ["script", *words])
        script.main()
    options = ["--tokenizer", "tokenizer", "--prompt-type", "qwen", "--seq-length", str(recipe.seq_length)]
    assert run(["preprocess", "data/train.jsonl", *options, "--neat-pack", "-o", "demo"]) == 0
    assert run(["show", "demo", "--pack", str(pack_to_show(Path("demo")))]) == 0
    printed = [line.rstrip() for line in capfd.readouterr().out.splitlines()]
    screens = README.read_text("utf-8").split("```")
    for first in ("token ledger", "pack "):
        (screen,) = [text.strip("\n").splitlines() for text in screens if text.startswith(f"\n{first}")]
        start = printed.index(screen[0])
        for shown, line in zip(screen, printed[start:], strict=False):
            assert line.startswith(shown.removesuffix("…")), shown


@pytest.mark.slow
def test_a_short_demo_goes_the_whole_road(tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).touch()
    (out / "leftover").mkdir()
    with pytest.raises(SystemExit) as ended:  # a few steps cannot halve the loss, and the demo says so
        run_demo(DemoOptions(output=out, seed=3), OutputOptions(json=True), SHORT)
    printed = capfd.readouterr()
    result = json.loads(printed.out)
    assert ended.value.code == 1
    assert [failure.split(" from ")[0] for failure in result["failures"]] == ["the loss fell"]
    assert result["identical"] and result["tensors"] == 26
    assert result["fill_packed"] > 0.9 > result["fill_padded"]
    assert result["tokens_per_second_packed"] > 0 and result["tokens_per_second_padded"] > 0
    assert 0 <= result["exact_match"] <= 1 and result["heldout_rows"] > 0
    assert not (out / "leftover").exists()
    for command in ("stats", "preprocess", "show", "train", "convert"):
        assert f"$ seqpack {command}" in printed.err
