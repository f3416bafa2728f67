"""The package with handlers for single data sets, installed beside seqpack and used through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.api import PackedDataset

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "seqpack-handlers-zoo"
NAMES = [
    "BelleMultiTurnInstructionHandler",
    "LeetcodePythonInstructionHandler",
    "MOSSInstructionHandler",
    "MOSSMultiTurnHandler",
    "StackOverflowPythonPretrainHandler",
]
MOSS = {"chat": {f"turn_{n}": {"Human": "<|Human|>: Hi<eoh>", "MOSS": f"<|MOSS|>: {n}<eom>"} for n in (1, 2)}}
STACK = {"title": "How?", "question_body": "So.", "answer_body": "Thus."}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the package in it, as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder), str(PLUGIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run(site: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "SEQPACK_LOAD_PLUGINS"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, cwd=PLUGIN
    )


def preprocess(site: Path, file: Path, tokenizer: Path, handler: str) -> subprocess.CompletedProcess[str]:
    words = ("--handler", handler, "--tokenizer", tokenizer, "-o", file.with_suffix(""), "--json")
    return run(site, "seqpack", "preprocess", file, *words)


def test_its_handlers_are_listed_and_described(site):
    done = run(site, "seqpack", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    handlers = json.loads(done.stdout)["handlers"]
    assert [handler["name"] for handler in handlers if handler["plugin"] == "zoo"] == NAMES
    readme = (PLUGIN / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in NAMES)


def test_sets_are_made_with_them(site, write_jsonl, tokenizer_dir):
    done = preprocess(site, write_jsonl([MOSS], "moss.jsonl"), tokenizer_dir, "MOSSInstructionHandler")
    assert done.returncode == 0, done.stderr
    assert len(PackedDataset.open(json.loads(done.stdout)["prefix"])) == 2
    file = write_jsonl([STACK], "stack.jsonl")
    done = preprocess(site, file, tokenizer_dir, "StackOverflowPythonPretrainHandler")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["texts"]["text"]["documents"] == 1


def test_its_own_tests_pass(site):
    done = run(site, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
