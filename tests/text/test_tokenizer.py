"""A tokenizer directory: what it must have, and by what it is known again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError
from seqpack.text import tokenizer as tokenizer_module
from seqpack.text.tokenizer import Tokenizer, require_token, tokenizer_fingerprint


@pytest.fixture
def copy(tokenizer_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "copy"))


def edit(directory: Path, change: Callable[[Any], object]) -> Path:
    path = directory / "tokenizer.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    return directory


def configure(directory: Path, config: Any) -> Tokenizer:
    (directory / "tokenizer_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return Tokenizer(directory)


def test_what_it_knows(tokenizer):
    assert tokenizer.vocab_size == 3000
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|endoftext|>", 0, 0)
    assert tokenizer.token_id("<|im_end|>") == 2 and tokenizer.token_text(2) == "<|im_end|>"
    assert tokenizer.token_id("no such token") is None and tokenizer.token_id(None) is None
    assert tokenizer.token_text(10**6) == ""


@given(st.text())
def test_text_survives(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    (encoding,) = tokenizer.encode_with_offsets([text])
    assert encoding.ids == ids


def test_nothing_is_added(tokenizer):
    assert tokenizer.encode(["", "<|im_end|>"]) == [[], [2]]
    assert tokenizer.encode([]) == []


@pytest.mark.parametrize(
    ("config", "eos", "pad"),
    [
        ({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, 2, 0),
        ({"eos_token": {"content": "<|im_end|>"}, "pad_token": {"content": "<|im_start|>"}}, 2, 1),
        ({"eos_token": "<|im_end|>"}, 2, 2),
        ({"eos_token": "<|im_end|>", "pad_token": "not in the vocabulary"}, 2, 2),
        ({"eos_token": None}, None, 0),
        ({}, None, 0),
        ("[]", None, 0),
    ],
)
def test_end_and_padding_token(copy, config, eos, pad):
    tokenizer = configure(copy, config)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (eos, pad)


def test_settings_of_the_file_that_would_change_ids_are_off(copy, tokenizer):
    from tokenizers import Tokenizer as FastTokenizer

    fast = FastTokenizer.from_file(str(copy / "tokenizer.json"))
    fast.enable_truncation(2)
    fast.enable_padding(length=9)
    fast.save(str(copy / "tokenizer.json"))
    assert Tokenizer(copy).encode(["one two three four"]) == tokenizer.encode(["one two three four"])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no tokenizer directory"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "is not valid JSON"),
    ],
    ids=["no folder", "no file", "cut off", "not a tokenizer", "config"],
)
def test_what_is_no_tokenizer_is_refused(copy, damage, problem):
    damage(copy)
    with pytest.raises(DataError, match=problem) as error:
        Tokenizer(copy)
    assert error.value.code == "SP104"


def test_the_fingerprint_of_a_damaged_file(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON") as error:
        tokenizer_fingerprint(copy)
    assert error.value.code == "SP104"


def test_a_required_token(tokenizer):
    assert require_token(tokenizer, "<|im_start|>", template="qwen") == tokenizer.token_id("<|im_start|>")
    with pytest.raises(ConfigError, match="'mine' needs the token '<end>'") as error:
        require_token(tokenizer, "<end>", template="mine")
    assert error.value.code == "SP016"


def test_layout_does_not_change_the_fingerprint(copy, tokenizer):
    def rearrange(value: Any) -> None:
        model = value["model"]
        model["vocab"] = dict(sorted(model["vocab"].items()))
        model["merges"] = [" ".join(pair) if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
        value["added_tokens"].reverse()
        value["truncation"] = None

    assert tokenizer_fingerprint(edit(copy, rearrange)) == tokenizer.fingerprint()


def test_trimming_offsets_does_not_change_the_fingerprint(copy, tokenizer):
    def trim(value):
        value["pre_tokenizer"]["trim_offsets"] = not value["pre_tokenizer"].get("trim_offsets")

    assert tokenizer_fingerprint(edit(copy, trim)) == tokenizer.fingerprint()


def test_transformers_does_not_change_the_fingerprint(copy, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    # as older versions wrote it
    old = edit(copy, lambda value: value["model"].update(merges=[" ".join(pair) for pair in value["model"]["merges"]]))
    transformers.AutoTokenizer.from_pretrained(old).save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() != (old / "tokenizer.json").read_bytes()
    assert tokenizer_fingerprint(tmp_path / "new") == tokenizer_fingerprint(old) == tokenizer.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["model"]["merges"].pop(),
        lambda value: value["model"]["merges"].reverse(),
        lambda value: value["model"]["vocab"].update(new=5000),
        lambda value: value["added_tokens"][0].update(content="<|other|>"),
        lambda value: value["added_tokens"][1].update(id=4000),
        lambda value: value["added_tokens"].pop(),
        lambda value: value["added_tokens"][0].update(lstrip=True),
        lambda value: value["model"].update(ignore_merges=True),
        lambda value: value["model"].update(byte_fallback=True),
        lambda value: value.update(normalizer={"type": "Lowercase"}),
        lambda value: value.update(pre_tokenizer={"type": "Whitespace"}),
    ],
    ids=[
        *("merge", "order of merges", "entry", "added token", "id", "removed token"),
        *("flag of a token", "ignore_merges", "byte_fallback", "normalizer", "pre-tokenizer"),
    ],
)
def test_what_changes_ids_changes_the_fingerprint(copy, tokenizer, change):
    assert tokenizer_fingerprint(edit(copy, change)) != tokenizer.fingerprint()


def test_a_file_that_was_loaded_before_is_loaded_again_only_to_encode(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = Tokenizer(copy)
    loads: list[str] = []
    load = tokenizer_module.FastTokenizer.from_file

    class Counting:
        @staticmethod
        def from_file(path: str):
            loads.append(path)
            return load(path)

    monkeypatch.setattr(tokenizer_module, "FastTokenizer", Counting)
    again = Tokenizer(copy)
    assert (again.vocab_size, again.added_tokens) == (first.vocab_size, first.added_tokens)
    assert (again.eos_token_id, again.pad_token_id, again.fingerprint()) == (0, 0, first.fingerprint())
    assert again.token_id("<|im_end|>") == 2 and not loads
    assert again.token_id(" water") == first.token_id(" water") and again.encode(["x"]) == first.encode(["x"])
    assert len(loads) == 1


@pytest.mark.parametrize("facts", ["", "[]", "[3]", '["x", {}]', '[3000, {"a": null}]', "{"])
def test_what_is_remembered_is_checked(copy, monkeypatch, tmp_path, tokenizer, facts):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Tokenizer(copy)
    (file,) = (tmp_path / "cache" / "seqpack").glob("tokenizers.json")
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), facts)))
    assert Tokenizer(copy).added_tokens == tokenizer.added_tokens


def test_a_damaged_file_is_an_error_at_once(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Tokenizer(copy)
    edit(copy, lambda value: value.pop("model"))
    with pytest.raises(DataError, match="cannot be loaded"):
        Tokenizer(copy)
