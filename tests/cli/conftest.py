"""A small data set and a way to run command lines in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seqpack.cli.app import run


@dataclass(frozen=True)
class Outcome:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``cli("stats", path, ...)`` runs a command and returns its exit code and output."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def alpaca_file(tmp_path: Path) -> Path:
    """Thirty Alpaca rows from a few to some ninety tokens."""
    rows = [
        {"instruction": f"Say the word number {n}.", "input": "", "output": " ".join(["word"] * (1 + n * 3))}
        for n in range(30)
    ]
    path = tmp_path / "alpaca.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def packed(cli: Callable[..., Outcome], alpaca_file: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """Prefix of those rows packed with --neat-pack at length 128."""
    prefix = tmp_path / "packs" / "mine"
    outcome = cli(
        "preprocess", alpaca_file, "--tokenizer", tokenizer_dir, "--seq-length", 128, "--neat-pack", "-o", prefix
    )
    assert outcome.code == 0, outcome.err
    return prefix
