"""Fast engines: the same ids as ``tokenizers``, or not used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError, DeviceError
from seqpack.text import engines
from seqpack.text.engines import CheckedEngine, Choice, choose_engine
from seqpack.text.tokenizer import FlatIds, Tokenizer

PIECES = ["Say hello.<|im_end|>\n", "", "  two  spaces", "naïve 中文 🙂", "\n\n", "a" * 500]
TEXTS = st.lists(st.text() | st.sampled_from(["<|im_start|>user\n", "<|im_end|>", "  \n", "don't"]), max_size=6)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "seqpack"


def choose(tokenizer: Tokenizer, wanted: engines.EngineName = "auto") -> Choice:
    return choose_engine(tokenizer, wanted, pieces=lambda: PIECES)


def stand_in(monkeypatch: pytest.MonkeyPatch, encode, name: str = "fastokens") -> list[Path]:
    """Replaces all engines by one that encodes with ``encode(tokenizer, texts)``; returns the list of its loads."""
    loads: list[Path] = []

    def load(path: Path):
        loads.append(path)
        tokenizer = Tokenizer(path.parent)
        return lambda texts: encode(tokenizer, texts)

    monkeypatch.setattr(engines, "_LOADERS", {name: load})
    monkeypatch.setattr(engines, "_installed", lambda name: "9.9")
    return loads


def exact(tokenizer: Tokenizer, texts: Sequence[str]) -> FlatIds:
    return tokenizer.encode_flat(texts)


def one_id_off(tokenizer: Tokenizer, texts: Sequence[str]) -> FlatIds:
    ids, offsets = tokenizer.encode_flat(texts)
    return np.where(np.arange(len(ids)) == len(ids) - 1, ids + 1, ids).astype(np.int32), offsets


def other_borders(tokenizer: Tokenizer, texts: Sequence[str]) -> FlatIds:
    ids, offsets = tokenizer.encode_flat(texts)
    return ids, np.append(offsets[:-1], [offsets[-1], offsets[-1]])


@pytest.mark.parametrize("name", ["fastokens", "gigatoken"])
@given(texts=TEXTS)
def test_installed_engines_give_the_ids_of_tokenizers(tokenizer, name, texts):
    pytest.importorskip(name)
    engine = choose(tokenizer, name).engine
    assert engine.name == name
    for seen, expected in zip(engine.encode_flat(texts), tokenizer.encode_flat(texts), strict=True):
        assert np.array_equal(seen, expected) and seen.dtype == expected.dtype


def test_tokenizers_flat_is_tokenizers(tokenizer):
    ids, offsets = tokenizer.encode_flat(PIECES)
    assert [ids[a:b].tolist() for a, b in pairwise(offsets.tolist())] == tokenizer.encode(PIECES)
    ids, offsets = tokenizer.encode_flat([])
    assert ids.tolist() == [] and offsets.tolist() == [0]


def test_an_exact_engine_is_used_and_remembered(tokenizer, monkeypatch):
    stand_in(monkeypatch, exact)
    assert choose(tokenizer).label == "fastokens 9.9"

    def unexpected() -> Sequence[str]:
        pytest.fail("compared again")

    again = choose_engine(tokenizer, "auto", pieces=unexpected)
    assert again.label == "fastokens 9.9" and not again.refused


@pytest.mark.parametrize("wanted", ["auto", "fastokens"])
@pytest.mark.parametrize(
    ("encode", "problem"), [(one_id_off, "other ids for"), (other_borders, "other boundaries between texts")]
)
def test_an_engine_that_differs_is_refused_and_remembered(tokenizer, monkeypatch, wanted, encode, problem):
    loads = stand_in(monkeypatch, encode)
    choice = choose(tokenizer, wanted)
    assert choice.engine is tokenizer and choice.refused.startswith("fastokens 9.9: ") and problem in choice.refused
    again = choose(tokenizer, wanted)
    assert again.engine is tokenizer and again.refused.endswith("(remembered)") and len(loads) == 1


def test_another_tokenizer_is_compared_again(tokenizer, monkeypatch, tokenizer_dir, tmp_path):
    loads = stand_in(monkeypatch, exact)
    choose(tokenizer)
    other = Path(shutil.copytree(tokenizer_dir, tmp_path / "other"))
    value = json.loads((other / "tokenizer.json").read_bytes())
    value["added_tokens"][0]["lstrip"] = not value["added_tokens"][0]["lstrip"]
    (other / "tokenizer.json").write_text(json.dumps(value))
    compared: list[bool] = []
    choose_engine(Tokenizer(other), "auto", pieces=lambda: compared.append(True) or PIECES)
    assert compared and len(loads) == 2


class Panic(BaseException):
    """As Rust libraries raise."""


@pytest.mark.parametrize("error", [ValueError("unigram is not supported"), Panic("index out of bounds"), ImportError()])
def test_an_engine_that_cannot_load_is_refused(tokenizer, monkeypatch, error):
    def fail(path: Path):
        raise error

    monkeypatch.setattr(engines, "_LOADERS", {"fastokens": fail})
    monkeypatch.setattr(engines, "_installed", lambda name: "9.9")
    choice = choose(tokenizer)
    assert choice.engine is tokenizer and "cannot use this tokenizer" in choice.refused


def test_the_users_interrupt_and_bad_data_are_not_the_engines_fault(tokenizer, monkeypatch):
    stand_in(monkeypatch, exact)

    def broken() -> Sequence[str]:
        raise DataError("SP103", "line 1 is not JSON")

    with pytest.raises(DataError):
        choose_engine(tokenizer, "auto", pieces=broken)


def test_an_engine_that_is_not_installed(tokenizer, monkeypatch):
    monkeypatch.setattr(engines, "_installed", lambda name: None)
    assert "pip install" in choose(tokenizer).reason
    with pytest.raises(DeviceError, match="--tokenizer-engine gigatoken") as error:
        choose(tokenizer, "gigatoken")
    assert error.value.code == "SP504"


def test_texts_an_engine_fails_on_are_left_to_tokenizers(tokenizer):
    def fail(texts: Sequence[str]) -> FlatIds:
        raise RuntimeError("backtrack limit")

    ids, _ = CheckedEngine("fastokens", "9.9", fail, tokenizer).encode_flat(PIECES)
    assert np.array_equal(ids, tokenizer.encode_flat(PIECES)[0])


@pytest.mark.parametrize("content", [None, "{", "[]", '{"a": 1}'])
def test_a_cache_that_cannot_be_used_is_no_error(tokenizer, monkeypatch, cache, content):
    stand_in(monkeypatch, exact)
    if content is None:
        cache.parent.write_text("a file where the folder should be")
    else:
        cache.mkdir(parents=True)
        (cache / "engines.json").write_text(content)
    assert choose(tokenizer).label == "fastokens 9.9"
