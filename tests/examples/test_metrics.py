"""The package with metric sinks, installed beside seqpack and used through the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "seqpack-metrics"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the package in it, as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder), str(PLUGIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=PLUGIN)


def test_a_run_writes_event_files(site, tmp_path, write_jsonl, tokenizer_dir):
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "word " * (n + 1)} for n in range(4)]
    words = ("--tokenizer", tokenizer_dir, "--seq-length", 64, "--neat-pack", "-o", tmp_path / "packs")
    assert run(site, "seqpack", "preprocess", write_jsonl(rows), *words).returncode == 0
    train = ("seqpack", "train", tmp_path / "packs", "--model", "tiny:qwen2", "--train-iters", 2, "--num-threads", 1)
    done = run(site, *train, "--save", tmp_path / "run", "--metrics", "tensorboard")
    assert done.returncode == 0, done.stderr
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.read_bytes().count(b"grad_norm") == 2
    done = run(site, *train, "--save", tmp_path / "other", "--metrics", "tensorbord")
    assert done.returncode == 2
    assert "did you mean 'tensorboard'" in done.stderr


def test_its_own_tests_pass(site):
    done = run(site, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
