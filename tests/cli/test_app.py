from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqpack
from seqpack.cli.app import LAZY_COMMANDS, load_command, run


@pytest.mark.parametrize("name", LAZY_COMMANDS)
def test_help_of_every_command_has_three_examples_and_dash_h(cli, name):
    outcome = cli(name, "-h")
    assert outcome.code == 0
    assert "Usage: seqpack" in outcome.out
    assert outcome.out.count("seqpack " if name == "plugins" else f"seqpack {name}") >= 3 or name == "version"


@pytest.mark.parametrize("name", LAZY_COMMANDS)
def test_listed_help_line_is_the_first_sentence_of_the_docstring(name):
    doc = inspect.getdoc(getattr(importlib.import_module(f"seqpack.commands.{name}"), name))
    assert doc and doc.count("Examples:") == 1
    assert len(doc.partition("Examples:\n")[2].strip().splitlines()) == 3


@pytest.mark.parametrize("name", LAZY_COMMANDS)
def test_every_option_says_what_it_is(name):
    for parameter in load_command(name).params:
        assert getattr(parameter, "help", None) or parameter.name == "help", f"{name} {parameter.name}"


def test_bare_command_prints_help(cli):
    outcome = cli()
    assert outcome.code == 0
    assert all(name in outcome.out for name in LAZY_COMMANDS)


def test_version(cli):
    assert cli("--version").out.strip() == seqpack.__version__
    assert cli("version", "--json").json["versions"]["seqpack"] == seqpack.__version__


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["prepocess"], "did you mean 'preprocess'"),
        (["stats", "x.jsonl", "--tokeniser", "d"], "did you mean '--tokenizer'"),
        (["preprocess", "x.jsonl", "--neat-pak"], "did you mean '--neat-pack'"),
        (["train", "p", "--reset-postion-ids"], "did you mean '--reset-position-ids'"),
    ],
)
def test_misspelt_command_or_flag_is_answered_with_the_right_one(cli, arguments, hint):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert hint in outcome.err
    assert outcome.err.startswith("error[SP001]")


def test_errors_are_short_and_have_no_traceback(cli, tmp_path):
    outcome = cli("stats", tmp_path / "none.jsonl", "--tokenizer", tmp_path)
    assert outcome.code == 3
    assert len(outcome.err.strip().splitlines()) <= 8
    assert "Traceback" not in outcome.err


def test_traceback_on_request(cli, tmp_path):
    assert "Traceback" in cli("stats", tmp_path / "none.jsonl", "--tokenizer", tmp_path, "--traceback").err


def test_error_as_json(cli, tmp_path):
    outcome = cli("stats", tmp_path / "none.jsonl", "--tokenizer", tmp_path, "--json")
    assert outcome.json["error"]["code"] == "SP101"


def test_positional_may_be_a_flag_but_not_both(cli, alpaca_file, tokenizer_dir):
    assert (
        cli("stats", "--input", alpaca_file, "--tokenizer", tokenizer_dir, "--json").json["ledger"]["read"]["samples"]
        == 30
    )
    assert cli("stats", alpaca_file, "--input", alpaca_file, "--tokenizer", tokenizer_dir).code == 2
    assert "INPUT is missing" in cli("stats", "--tokenizer", tokenizer_dir).err


def test_interrupt_ends_with_130(cli, monkeypatch, alpaca_file, tokenizer_dir):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqpack.pipeline.stats.stats", interrupted)
    outcome = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir)
    assert outcome.code == 130
    assert "interrupted" in outcome.err


def test_a_bug_looks_like_a_bug(cli, monkeypatch, alpaca_file, tokenizer_dir):
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("seqpack.pipeline.stats.stats", broken)
    outcome = cli("stats", alpaca_file, "--tokenizer", tokenizer_dir)
    assert outcome.code == 1
    assert "ZeroDivisionError: ours" in outcome.err and "bug" in outcome.err


def test_closed_pipe_is_not_an_error(alpaca_file, tokenizer_dir):
    command = f"{sys.executable} -m seqpack stats {alpaca_file} --tokenizer {tokenizer_dir} -v | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_completion_knows_commands_and_their_flags():
    def complete(words: str) -> list[str]:
        environment = {
            **os.environ,
            "_SEQPACK_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        program = "import sys; sys.argv = ['seqpack']; from seqpack.cli.app import app; app(prog_name='seqpack')"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert "preprocess" in complete("seqpack pre")
    assert "--neat-pack" in complete("seqpack preprocess --neat")


@pytest.mark.parametrize("code", ["SP103", "sp103"])
def test_explain(cli, code):
    assert "What to do" in cli("explain", code).out


def test_explain_unknown_code(cli):
    outcome = cli("explain", "SP10")
    assert outcome.code == 2 and "no diagnostic code" in outcome.err


def test_json_output_is_one_object_with_a_schema_version(cli, packed):
    for arguments in (["show", packed], ["plugins"], ["version"], ["explain", "SP004"]):
        assert cli(*arguments, "--json").json["schema_version"] == 1


def test_run_returns_instead_of_exiting():
    assert run(["--version"]) == 0


def test_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "seqpack", "version", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["versions"]["seqpack"] == seqpack.__version__


def test_readme_is_beside_the_package():
    assert (Path(seqpack.__file__).parent / "py.typed").exists()
