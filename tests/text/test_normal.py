"""Leaving out NFC changes no ids."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from seqpack.text.normal import is_stable
from seqpack.text.tokenizer import Tokenizer
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def composing(tmp_path_factory) -> Tokenizer:
    """The tokenizer of the tests with NFC, as that of Qwen has it."""
    folder = tmp_path_factory.mktemp("nfc")
    shutil.copytree(GOLDEN / "tokenizers" / "qwen", folder, dirs_exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"normalizer": {"type": "NFC"}}))
    return Tokenizer(folder)


def test_stable_characters_compose_with_nothing():
    decomposed = (unicodedata.decomposition(chr(code)) for code in range(sys.maxunicode))
    second = {chr(int(text.split()[1], 16)) for text in decomposed if " " in text and not text.startswith("<")}
    stable = [character for character in map(chr, range(sys.maxunicode)) if is_stable(character)]
    assert len(stable) > 20_000 and is_stable("Text, é, カ, 文。\n")
    assert not [c for c in stable if unicodedata.combining(c) or c in second or unicodedata.normalize("NFC", c) != c]


@pytest.fixture(scope="module")
def library(composing) -> FastTokenizer:
    return FastTokenizer.from_file(str(composing.directory / "tokenizer.json"))


@given(texts=st.lists(st.text(st.sampled_from("aeé\u0301\u0300カ\u3099文\u212b<|im_end|>\n ")), max_size=5))
def test_ids_are_those_of_the_library(composing, library, texts):
    expected = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    assert composing.encode(texts) == expected
    assert composing.encode(texts) == expected, "the normalizer is in its place again"


def test_a_token_that_composes_is_found(composing, tmp_path):
    folder = shutil.copytree(composing.directory, tmp_path / "other")
    value = json.loads((folder / "tokenizer.json").read_bytes())
    token = value["added_tokens"][0] | {"id": 2999, "content": "e\u0301", "normalized": True}
    (folder / "tokenizer.json").write_text(json.dumps(value | {"added_tokens": [*value["added_tokens"], token]}))
    library = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    assert Tokenizer(folder).encode(["\u00e9"]) == [library.encode("\u00e9", add_special_tokens=False).ids]
