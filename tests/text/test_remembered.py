"""The cache of what is known about tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqpack.text import remembered
from seqpack.text.remembered import Remembered


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "seqpack"


def test_what_was_put_is_there_for_the_next_process(cache):
    assert Remembered("a").get("x") is None
    Remembered("a").put("x", "1")
    Remembered("a").put("y", "2")
    assert (Remembered("a").get("x"), Remembered("a").get("y"), Remembered("b").get("x")) == ("1", "2", None)
    assert [path.name for path in cache.iterdir()] == ["a.json"]


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(remembered, "MAX_ENTRIES", 2)
    for key in "abac":
        Remembered("a").put(key, key)
    assert [Remembered("a").get(key) for key in "abc"] == ["a", None, "c"]


@pytest.mark.parametrize("root", ["", "relative"])
def test_without_a_usable_setting_it_is_in_the_home(monkeypatch, tmp_path, root):
    monkeypatch.setenv("XDG_CACHE_HOME", root)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Remembered("a").put("x", "1")
    assert (tmp_path / "home" / ".cache" / "seqpack" / "a.json").is_file()
