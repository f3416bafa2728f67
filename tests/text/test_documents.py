"""Documents with what the tokenizer adds by itself, whoever encodes them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.text import documents
from seqpack.text.documents import DocumentEncoder
from seqpack.text.tokenizer import Tokenizer
from tests.conftest import GOLDEN


@pytest.mark.parametrize("name", ["qwen", "llama3"])
@given(texts=st.lists(st.text(max_size=30), max_size=5))
def test_the_same_as_the_tokenizer_by_itself(name, texts):
    tokenizer = Tokenizer(GOLDEN / "tokenizers" / name)
    ids, offsets = DocumentEncoder(tokenizer, tokenizer).encode(texts)
    found = [ids[start:end].tolist() for start, end in pairwise(offsets)]
    assert found == tokenizer.encode_documents(texts)


def test_an_end_is_added_where_there_is_none(monkeypatch):
    tokenizer = Tokenizer(GOLDEN / "tokenizers" / "llama3")
    end = tokenizer.eos_token_id
    for affixes in (False, True):
        if affixes:  # a tokenizer that does not add the same to every text
            monkeypatch.setattr(documents, "_find_affixes", lambda tokenizer: None)
        ids, offsets = DocumentEncoder(tokenizer, tokenizer).encode(["a", "b<|end_of_text|>"], end_token_id=end)
        first, second = ids[: offsets[1]].tolist(), ids[offsets[1] :].tolist()
        assert first[-1] == end and second[-1] == end != second[-2]
        assert first[0] == second[0] == tokenizer.token_id(tokenizer.bos_token)
