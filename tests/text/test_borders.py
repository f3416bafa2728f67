"""Added tokens at which a text can be cut: its parts have the ids of the whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from seqpack.text.borders import hard_tokens
from seqpack.text.tokenizer import Tokenizer
from tests.conftest import GOLDEN

TOKENIZER = Tokenizer(GOLDEN / "tokenizers" / "qwen")
START, END = "<|im_start|>", "<|im_end|>"
PARTS = st.lists(
    st.sampled_from([START, END, "<|im_", "end|>", "<", ">", " ", "\n", "user", "é", "\u0301"]), max_size=6
)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode([text])[0]


@given(PARTS.map("".join), st.sampled_from([START, END]), PARTS.map("".join))
def test_the_parts_have_the_ids_of_the_whole(before, token, behind):
    assert ids(before + token + behind) == ids(before) + ids(token) + ids(behind)


def test_first_and_last_border():
    assert TOKENIZER.borders(f"a{START}user\n") == (1, 13)
    assert TOKENIZER.borders(f"{END}\n{START}assistant\n") == (0, 23)
    assert TOKENIZER.borders("no token") == (8, 0)


def changed(**parts: object) -> FastTokenizer:
    value = json.loads((TOKENIZER.directory / "tokenizer.json").read_bytes())
    return FastTokenizer.from_str(json.dumps(value | parts))


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": METASPACE},
        {"pre_tokenizer": BYTES},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES]}},
        {"normalizer": {"type": "Prepend", "prepend": "▁"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"}]}},
    ],
    ids=["metaspace", "prefix space", "in a sequence", "prepend", "prepend in a sequence"],
)
def test_no_borders_where_a_part_may_be_treated_otherwise(parts):
    assert hard_tokens(changed()) and not hard_tokens(changed(**parts))


@pytest.mark.parametrize(
    ("token", "other"),
    [
        (AddedToken("<|x|>", lstrip=True, normalized=False), None),
        (AddedToken("<|x|>", rstrip=True, normalized=False), None),
        (AddedToken("<|x|>", single_word=True, normalized=False), None),
        (AddedToken("<|x|>", normalized=True), None),
        (AddedToken("aba", normalized=False), None),  # "ab" before it makes another one, two places earlier
        (AddedToken("<|x|>", normalized=False), "<|x|>!"),
        (AddedToken("<|x|>", normalized=False), "y<|x"),
        (AddedToken("<|x|>", normalized=False), "-<|x|>-"),
    ],
    ids=["lstrip", "rstrip", "single word", "normalized", "overlaps itself", "begins another", "border", "inside"],
)
def test_a_token_that_may_be_found_elsewhere_is_no_border(token, other):
    tokenizer = changed()
    tokenizer.add_tokens([token, *([AddedToken(other, normalized=False)] if other else [])])
    assert token.content not in hard_tokens(tokenizer) and START in hard_tokens(tokenizer)
