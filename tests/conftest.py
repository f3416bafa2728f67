"""What all tests share: a small tokenizer, a way to write rows, and how hard hypothesis tries."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden" / "mindspeed"

# In CI a red test must be red for everybody, so there the examples are always the same.
settings.register_profile(
    "seqpack",
    deadline=None,
    max_examples=60,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("seqpack")


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """Tests need not survive a power cut, and waiting for the disk takes longer than all of them together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is remembered about tokenizers stays out of the user's own cache, and commands of the tests share it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


WriteJsonl = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer_dir() -> Path:
    """A byte-level BPE of 3,000 entries with the control tokens of Qwen. Copy it before changing it."""
    return GOLDEN / "tokenizers" / "qwen"


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """``write_jsonl(rows)`` or ``write_jsonl(rows, "b.jsonl")`` -> the path; a ``str`` row is written as it is."""

    def write(rows: Iterable[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write
