"""Command lines of MindSpeed-LLM's examples parse as they are: ``seqpack preprocess ARGV --dry-run``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqpack.cli.app import run

LINES = json.loads((Path(__file__).parents[1] / "golden" / "argv" / "mindspeed_preprocess.json").read_bytes())
NOTED = ("--log-interval", "--tokenizer-type", "--overwrite-cache", "--tokenizer-not-use-fast", "--tokenizer-model")


def test_there_are_lines():
    assert len(LINES) == 34


@pytest.mark.parametrize("line", LINES, ids=[line["source"] for line in LINES])
def test_a_line_parses_and_says_what_has_no_effect(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code = run(["preprocess", *line["argv"], "--dry-run"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "dry run: nothing was written" in out
    for flag in NOTED:
        assert (flag in line["argv"]) == any(note.startswith(flag) for note in out.splitlines()), flag
    assert list(tmp_path.iterdir()) == []
