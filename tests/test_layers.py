"""Imports point down, and a command imports what it needs and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.cli.app import LAZY_COMMANDS

ROOT = Path(__file__).parents[1]
TORCH_PLANE = ("torch", "transformers", "datasets", "safetensors")
ARRAYS = ("numpy", "pyarrow", "pandas", "tokenizers")

PROBE = """
import contextlib, io, json, sys
from seqpack.cli.app import run
watched, *commands = json.loads(sys.argv[1])
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(command)
    result = {"code": code, "imported": [name for name in watched if name in sys.modules], "printed": out.getvalue()}
    print(json.dumps(result | {"errors": err.getvalue()}))
"""
"""Runs command lines in one process; after each, prints how it ended and which packages are imported by now."""


def probe(*commands: list[str], watched: tuple[str, ...]) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([watched, *commands])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_import_contracts_hold():
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_help_imports_neither_torch_nor_arrays():
    names = list(LAZY_COMMANDS)
    results = probe(["--help"], *([name, "--help"] for name in names), watched=TORCH_PLANE + ARRAYS)
    for name, result in zip(["", *names], results, strict=True):
        assert result["code"] == 0, (name, result["errors"])
        assert "Usage: seqpack" in str(result["printed"]), name
        assert result["imported"] == [], f"seqpack {name} --help imports {result['imported']}"


@pytest.mark.parametrize("command", ["version", "explain SP103", "plugins"])
def test_small_commands_do_not_import_torch(command):
    (result,) = probe(command.split(), watched=TORCH_PLANE)
    assert (result["code"], result["imported"]) == (0, []), result["errors"]


def test_preparing_data_does_not_import_torch(tmp_path, tokenizer_dir):
    row = {"instruction": "Say hello.", "input": "", "output": "Hello."}
    data, packs, packed_again = tmp_path / "data.jsonl", tmp_path / "packs", tmp_path / "again"
    data.write_text((json.dumps(row) + "\n") * 5, encoding="utf-8")
    text = [str(data), "--tokenizer", str(tokenizer_dir), "--seq-length", "64"]
    results = probe(
        ["stats", *text],
        ["preprocess", *text, "--neat-pack", "-o", str(packs)],
        ["pack", str(packs), "--seq-length", "128", "-o", str(packed_again)],
        ["show", str(packed_again)],
        watched=TORCH_PLANE,
    )
    for command, result in zip(("stats", "preprocess", "pack", "show"), results, strict=True):
        assert result["code"] == 0, (command, result["errors"])
        assert result["imported"] == [], f"seqpack {command} imports {result['imported']}"


def test_the_package_itself_imports_nothing():
    watched = (*TORCH_PLANE, *ARRAYS, "rich", "typer", "pluggy", "yaml")
    script = f"import sys, seqpack; print([name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["seqpack.api", "seqpack.testing"])
def test_the_public_modules_import_neither_torch_nor_pytest(module):
    watched = (*TORCH_PLANE, "pytest", "hypothesis", "rich", "typer")
    script = f"import sys, {module}; print([name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
