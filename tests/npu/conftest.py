"""A folder for what takes long to make, kept between runs: wheels, compiled code."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = getattr(request.config, "cache", None)  # there is none under -p no:cacheprovider
    return tmp_path_factory.mktemp("npu") if cache is None else Path(cache.mkdir("npu"))


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small packed data set of real rows, at 256 tokens."""
    from seqpack.cli.app import run

    golden = Path(__file__).parents[1] / "golden" / "mindspeed"
    prefix = tmp_path_factory.mktemp("packs") / "mine"
    rows, tokenizer = golden / "inputs" / "alpaca_en_60.jsonl", golden / "tokenizers" / "qwen"
    words = ["preprocess", rows, "--tokenizer", tokenizer, "--seq-length", "256", "--neat-pack", "-o", prefix]
    assert run([*map(str, words), "--on-overlong", "truncate", "--quiet"]) == 0
    return prefix
